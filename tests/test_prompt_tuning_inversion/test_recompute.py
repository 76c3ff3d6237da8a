"""What is kept for the backward pass, and what is computed again."""

import copy

import pytest
import torch

from mmplugins.prompt_tuning_inversion import recompute


def gradient(unet, latents, embeds) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Output, gradient, and bytes that are kept outside of what is computed again."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    embeds = embeds.clone().requires_grad_()
    weights = {weight.untyped_storage().data_ptr() for weight in unet.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = unet(latents, torch.tensor(7), encoder_hidden_states=embeds).sample
    (grad,) = torch.autograd.grad(output.square().sum(), embeds)
    return output.detach(), grad, sum(size for place, size in kept.items() if place not in weights)


@pytest.fixture
def unets():
    """A UNet as diffusers makes it, with diffusers' checkpointing, and with ours."""
    from diffusers import UNet2DConditionModel

    from mmplugins.prompt_tuning_inversion.tiny_parts import unet_config

    torch.manual_seed(0)
    plain = UNet2DConditionModel(**unet_config((16, 32), cross_attention_dim=8)).eval().requires_grad_(False)
    theirs, ours = copy.deepcopy(plain), copy.deepcopy(plain)
    theirs.enable_gradient_checkpointing()
    recompute.recompute_activations(ours)
    return plain, theirs, ours


@pytest.mark.parametrize('positions', [1024, 48], ids=['at once', 'in turns'])
def test_same_gradient_with_less_kept(unets, monkeypatch, positions):
    monkeypatch.setattr(recompute, 'POSITIONS', positions)
    latents, embeds = torch.randn(2, 4, 16, 8), torch.randn(2, 5, 8)
    (output, grad, everything), (*_, theirs), (output_again, grad_again, kept) = (
        gradient(unet, latents, embeds) for unet in unets
    )
    torch.testing.assert_close(output_again, output)
    torch.testing.assert_close(grad_again, grad)
    assert kept < 0.6 * theirs
    assert theirs < everything / 4


def test_nothing_is_computed_again_without_gradients(unets, monkeypatch):
    monkeypatch.setattr(recompute, 'checkpoint', lambda *_, **__: pytest.fail('a checkpoint'))
    with torch.no_grad():
        unets[2](torch.randn(1, 4, 8, 8), torch.tensor(7), encoder_hidden_states=torch.randn(1, 5, 8))
