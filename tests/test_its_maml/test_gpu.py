"""ITS-MAML in second order on CUDA beside the CPU."""

import pytest
import torch

ENGINES = ['loop', 'vmap']


@pytest.fixture
def losses(episode):
    """Return the losses of a model on the episodes, in its precision."""

    def losses(model, device):
        dtype = next(model.parameters()).dtype
        batch = {
            name: value.to(device, dtype if value.is_floating_point() else value.dtype)
            for name, value in episode.items()
        }
        return model(**batch, mode='loss')

    return losses


@pytest.mark.parametrize('engine', ENGINES)
def test_float32_is_that_of_the_cpu(parity, device, build, losses, engine):
    """Without the attack: it follows the sign of a gradient, and near 0 that is a matter of rounding."""
    parity.check_step(build(double=False, engine=engine, reg_weight=0.0), losses, device)


@pytest.mark.parametrize('engine', ENGINES)
def test_float64_under_attack_is_that_of_the_cpu(parity, device, build, losses, engine):
    parity.check_step(build(engine=engine), losses, device, tolerance=1e-8)


def test_half_precision_is_finite(parity, device, build, losses):
    """With the engine of CUDA: in the loop torch's second derivative of a batch norm overflows in float16."""
    parity.check_half(build(double=False, engine='vmap'), losses, device)


def test_steps_done_again_in_half_precision_give_the_same_gradient(parity, device, build, losses):
    plain, again = (
        parity.step(
            build(double=False, engine='loop', reg_weight=0.0, checkpoint_steps=again), losses, device, torch.bfloat16
        )
        for again in (False, True)
    )
    parity.assert_same(again, plain, 1e-2)
