"""What is evaluated once for fixed latents."""

import pytest
import torch
from torch import nn

from mmplugins.prompt_tuning_inversion.diffusion.folder import SKELETONS
from mmplugins.prompt_tuning_inversion.diffusion.unprompted import evaluated_once, unprompted_modules


@pytest.fixture(params=SKELETONS)
def unet(request):
    """A narrow UNet with the layers of Stable Diffusion 1.x, 2.x or SDXL."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    config = dict(SKELETONS[request.param], norm_num_groups=4, layers_per_block=1, attention_head_dim=2)
    config.update(block_out_channels=(16, 16, 32, 32)[: len(config['block_out_channels'])], cross_attention_dim=8)
    if request.param == 'sdxl':
        config.update(transformer_layers_per_block=1, addition_time_embed_dim=8)
        config.update(projection_class_embeddings_input_dim=8 + 6 * 8)
    return UNet2DConditionModel(**config).eval().requires_grad_(False)


def predict(unet, latents, embeds):
    """With the first token as the pooled embedding of SDXL."""
    added = dict(text_embeds=embeds[:, 0], time_ids=torch.ones(len(latents), 6))
    return unet(latents, torch.tensor(7), encoder_hidden_states=embeds, added_cond_kwargs=added).sample


def prediction_and_gradient(unet, latents, embeds):
    with torch.enable_grad():
        embeds = embeds.clone().requires_grad_()
        output = predict(unet, latents, embeds)
        (grad,) = torch.autograd.grad(output.square().sum(), embeds)
    return output.detach(), grad


@pytest.mark.parametrize('checkpointing', [False, True])
def test_predictions_and_gradients_stay_bit_by_bit(unet, checkpointing):
    latents, prompts = torch.randn(2, 4, 8, 8), torch.randn(3, 2, 5, 8)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    expected = [prediction_and_gradient(unet, latents, embeds) for embeds in prompts]
    with evaluated_once(unprompted_modules(unet)):
        found = [prediction_and_gradient(unet, latents, embeds) for embeds in prompts]
    assert not torch.equal(expected[0][0], expected[1][0])
    for (output, grad), (wanted, wanted_grad) in zip(found, expected, strict=True):
        assert torch.equal(output, wanted)
        assert torch.equal(grad, wanted_grad)


def test_all_before_the_keys_of_the_first_cross_attention(unet):
    """No other module with weights sees the same inputs with another prompt."""
    inputs: dict[str, list] = {}
    for name, module in unet.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0]))
    latents = torch.randn(1, 4, 8, 8)
    for embeds in torch.randn(2, 1, 5, 8):
        predict(unet, latents, embeds)
    same = {name for name, (first, second) in inputs.items() if torch.equal(first, second)}
    modules = unprompted_modules(unet)
    once = {name for name, module in unet.named_modules() if any(module in part.modules() for part in modules)}
    assert same == once & set(inputs)


def test_evaluated_once_and_put_back():
    calls = []

    class Count(nn.Linear):
        def forward(self, x):
            calls.append(x)
            return super().forward(x)

    layer = Count(2, 2)
    wrapped = Count(2, 2)
    wrapped.forward = outer = lambda x: x + 1  # as accelerate's hooks do it
    with pytest.raises(KeyError), evaluated_once([layer, wrapped]):
        first = layer(torch.zeros(1, 2))
        assert layer(torch.ones(1, 2)) is first
        assert len(calls) == 1
        assert wrapped(torch.ones(1)) == 2
        raise KeyError
    assert 'forward' not in vars(layer)
    assert wrapped.forward is outer
    layer(torch.ones(1, 2))
    assert len(calls) == 2
