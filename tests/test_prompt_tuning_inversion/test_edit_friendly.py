"""Edit-friendly DDPM inversion, against diffusers' random step and what must come back."""

import pytest
import torch

from mmplugins.prompt_tuning_inversion import EditDataSample

SOURCES = ['a red three', 'a blue two']
TARGETS = ['a green three', 'a red two']


@pytest.mark.parametrize('prediction_type', ['epsilon', 'v_prediction'])
def test_random_step_is_that_of_diffusers(make_editor, prediction_type):
    from diffusers import DDIMScheduler

    editor = make_editor('EditFriendlyEditor', prediction_type=prediction_type)
    config = {key: value for key, value in editor.parts.scheduler_config.items() if not key.startswith('_')}
    config.pop('skip_prk_steps')
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(5)
    latents, output, noise = torch.randn(3, 2, 4, 3, 3)
    for level, timestep in zip(range(5, 0, -1), scheduler.timesteps, strict=True):
        expected = scheduler.step(output, timestep, latents, eta=1.0, variance_noise=noise).prev_sample
        predicted = editor.schedule.to_noise(output, latents, level)
        mean, deviation = editor.schedule.random_step(latents, predicted, level)
        torch.testing.assert_close(mean + deviation * noise, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('prediction_type', ['epsilon', 'v_prediction'])
@pytest.mark.parametrize('eta', [0.2, 0.6, 1.0])
def test_the_prompt_of_the_image_gives_the_image_from_any_level(make_editor, images, prediction_type, eta):
    editor = make_editor('EditFriendlyEditor', prediction_type=prediction_type)
    inversion = editor.invert(images, TARGETS, SOURCES)
    torch.testing.assert_close(editor.edit(inversion, SOURCES, eta), editor.reconstruct(inversion), rtol=0, atol=1e-3)
    assert (editor.edit(inversion, TARGETS, eta) - editor.reconstruct(inversion)).abs().max() > 1e-3


def test_strength_zero_is_the_image_and_no_prompt_is_the_empty_one(make_editor, images):
    editor = make_editor('EditFriendlyEditor')
    inversion = editor.invert(images, TARGETS)
    assert torch.equal(editor.edit(inversion, TARGETS, 0.0), editor.reconstruct(inversion))
    torch.testing.assert_close(editor.edit(inversion, ['', ''], 1.0), editor.reconstruct(inversion), rtol=0, atol=1e-3)


def test_an_image_without_a_prompt_leaves_the_others_theirs(make_editor, images):
    editor = make_editor('EditFriendlyEditor', eta=0.6)
    samples = [EditDataSample(prompt=prompt) for prompt in TARGETS]
    samples[0].set_data(dict(source_prompt=SOURCES[0]))
    editor(list(images), samples)
    for image, sample, source in zip(images, samples, (SOURCES[0], ''), strict=True):
        alone = editor.edit(editor.invert(image[None], [sample.prompt], [source]), [sample.prompt])
        torch.testing.assert_close(sample.edits, alone, rtol=0, atol=1e-3)


def test_levels_have_noise_of_their_own(make_editor, images):
    editor = make_editor('EditFriendlyEditor', guidance=0.0)
    latents = editor.parts.encode_image(images)
    noises = [
        (editor.level(latents, level) - editor.schedule.alphas[level].sqrt().float() * latents).flatten()
        for level in range(1, 6)
    ]
    correlations = torch.corrcoef(torch.stack(noises)) - torch.eye(5)
    assert correlations.abs().max() < 0.5  # few values; equal noise would give 1


def test_an_image_has_the_noise_that_it_has_alone(make_editor, images):
    editor = make_editor('EditFriendlyEditor')
    both = editor.invert(images, TARGETS, SOURCES)
    alone = editor.invert(images[1:], TARGETS[1:], SOURCES[1:])
    torch.testing.assert_close(both.split()[1].noises, alone.noises, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        editor.edit(both, TARGETS, 0.6)[1:], editor.edit(alone, TARGETS[1:], 0.6), atol=1e-3, rtol=0
    )
    other = make_editor('EditFriendlyEditor', seed=1).invert(images, TARGETS, SOURCES)
    assert not torch.equal(other.noise, both.noise)


def test_it_is_kept_in_the_cache(make_editor, images, tmp_path):
    from mmplugins.prompt_tuning_inversion import InversionCache

    editor, cache = make_editor('EditFriendlyEditor'), InversionCache(tmp_path / 'cache')
    made, _ = cache.invert(editor, images, TARGETS, SOURCES)
    read, hits = cache.invert(editor, images, ['another'] * 2, SOURCES)
    assert hits == [True, True]
    assert torch.equal(editor.edit(made, TARGETS, 0.6), editor.edit(read, TARGETS, 0.6))
    _, hits = cache.invert(editor, images, TARGETS, TARGETS)
    assert hits == [False, False]
