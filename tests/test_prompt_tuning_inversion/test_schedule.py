"""The grid and the transitions, against diffusers' schedulers."""

import pytest
import torch

from mmplugins.prompt_tuning_inversion import DDIMSchedule
from mmplugins.prompt_tuning_inversion.tinted_digits.parts import SCHEDULER

STEPS = 10
PREDICTIONS = ('epsilon', 'v_prediction')


def make(prediction_type='epsilon', num_steps=STEPS, **kwargs) -> DDIMSchedule:
    return DDIMSchedule({**SCHEDULER, 'prediction_type': prediction_type, **kwargs}, num_steps)


@pytest.mark.parametrize('level', [1, 2, STEPS - 1, STEPS])
@pytest.mark.parametrize('prediction_type', PREDICTIONS)
def test_step_and_inverse_step_are_each_others_inverse(prediction_type, level):
    schedule, z, output = make(prediction_type), torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    noise = schedule.to_noise(output, z, level)
    back = schedule.move(schedule.move(z, noise, level, level - 1), noise, level - 1, level)
    assert (back - z).norm() <= 1e-5 * z.norm()


def test_grid_is_diffusers_and_its_mirror():
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    schedule = make(num_steps=50)
    forward = DDIMScheduler(**SCHEDULER)
    backward = DDIMInverseScheduler.from_config(forward.config)
    forward.set_timesteps(50)
    backward.set_timesteps(50)
    assert schedule.timesteps.tolist() == forward.timesteps.tolist()[::-1] == backward.timesteps.tolist()
    assert schedule.timesteps[[0, -1]].tolist() == [1, 981]
    assert len(schedule.alphas) == 51
    assert (schedule.alphas.diff() < 0).all()


@pytest.mark.parametrize('set_alpha_to_one', [False, True])
@pytest.mark.parametrize('prediction_type', PREDICTIONS)
def test_sampling_step_is_that_of_diffusers(prediction_type, set_alpha_to_one):
    from diffusers import DDIMScheduler

    schedule = make(prediction_type, set_alpha_to_one=set_alpha_to_one)
    config = dict(SCHEDULER, prediction_type=prediction_type, set_alpha_to_one=set_alpha_to_one)
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(STEPS)
    z, output = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for level in (STEPS, 3, 1):
        expected = scheduler.step(output, scheduler.timesteps[STEPS - level], z).prev_sample
        found = schedule.move(z, schedule.to_noise(output, z, level), level, level - 1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('prediction_type', PREDICTIONS)
def test_inverse_step_is_that_of_diffusers(prediction_type):
    from diffusers import DDIMInverseScheduler

    schedule = make(prediction_type)
    scheduler = DDIMInverseScheduler(**dict(SCHEDULER, prediction_type=prediction_type))
    scheduler.set_timesteps(STEPS)
    z, output = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for level in (1, 4, STEPS):
        expected = scheduler.step(output, scheduler.timesteps[level - 1], z).prev_sample
        found = schedule.move(z, schedule.to_noise(output, z, level - 1), level - 1, level)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('prediction_type', PREDICTIONS)
def test_guidance_before_or_after_the_conversion_to_noise_is_the_same(prediction_type):
    schedule, z, a, b = make(prediction_type), *torch.randn(3, 2, 4, 8, 8)
    before = schedule.to_noise(a + 7.5 * (b - a), z, 4)
    x, y = (schedule.to_noise(output, z, 4) for output in (a, b))
    torch.testing.assert_close(before, x + 7.5 * (y - x), rtol=1e-4, atol=1e-4)


def test_added_noise_is_removed_by_the_step_to_the_image():
    schedule = make(set_alpha_to_one=True)
    image, noise = torch.randn(2, 1, 4, 8, 8)
    for level in (1, STEPS):
        torch.testing.assert_close(
            schedule.move(schedule.add_noise(image, noise, level), noise, level, 0), image, rtol=1e-4, atol=1e-4
        )


def test_steps_that_do_not_divide_are_a_warning():
    with pytest.warns(UserWarning, match='7 steps do not divide 1000'):
        assert len(make(num_steps=7).timesteps) == 7


@pytest.mark.parametrize('steps', [0, -1, 1001, 2.5, '50'])
def test_wrong_number_of_steps(steps):
    with pytest.raises(ValueError, match='number of steps must be an integer from 1 to 1000'):
        make(num_steps=steps)


def test_steps_that_leave_the_training_timesteps():
    with pytest.raises(ValueError, match='leave the 1000 training timesteps'):
        make(num_steps=1000)


def test_other_predictions_are_refused():
    with pytest.raises(ValueError, match="prediction_type must be one of .* 'sample'"):
        make('sample')


def test_zero_terminal_snr_is_refused():
    with pytest.raises(ValueError, match='zero terminal SNR'):
        make(rescale_betas_zero_snr=True, timestep_spacing='trailing')
