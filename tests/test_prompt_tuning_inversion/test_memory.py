"""What is kept for the backward pass, what is computed again, and what goes back to the system."""

import copy
import platform
import subprocess
import sys

import pytest
import torch

from mmplugins.prompt_tuning_inversion.diffusion import memory

# In processes of their own, as the switch is for a whole process. Blocks of 2 MiB from the heap, once freed blocks have
# raised glibc's own threshold; every other one is freed.
SCRIPT = """
import re, sys
from pathlib import Path
from mmplugins.prompt_tuning_inversion.diffusion.memory import return_freed_memory

told = return_freed_memory() if len(sys.argv) > 1 else None
del [bytearray(4 << 20)][:]
blocks = [bytearray(2 << 20) for _ in range(60)]
del blocks[::2]
print(told, int(re.search(r'VmRSS:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)
"""


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

    from mmplugins.prompt_tuning_inversion.tinted_digits.parts import unet_config

    torch.manual_seed(0)
    plain = UNet2DConditionModel(**unet_config((16, 32), cross_attention_dim=8)).eval().requires_grad_(False)
    theirs, ours = copy.deepcopy(plain), copy.deepcopy(plain)
    theirs.enable_gradient_checkpointing()
    with memory.recomputed(ours):
        yield plain, theirs, ours


@pytest.mark.parametrize('positions', [1024, 48], ids=['at once', 'in turns'])
def test_same_gradient_with_less_kept(unets, monkeypatch, positions):
    monkeypatch.setattr(memory, 'POSITIONS', positions)
    latents, embeds = torch.randn(2, 4, 16, 8), torch.randn(2, 5, 8)
    (output, grad, everything), (*_, theirs), (output_again, grad_again, kept) = (
        gradient(unet, latents, embeds) for unet in unets
    )
    torch.testing.assert_close(output_again, output)
    torch.testing.assert_close(grad_again, grad)
    assert kept < 0.6 * theirs
    assert theirs < everything / 4


def test_nothing_is_computed_again_without_gradients(unets, monkeypatch):
    monkeypatch.setattr(memory, 'checkpoint', lambda *_, **__: pytest.fail('a checkpoint'))
    with torch.no_grad():
        unets[2](torch.randn(1, 4, 8, 8), torch.tensor(7), encoder_hidden_states=torch.randn(1, 5, 8))


def test_a_copy_runs_its_own_blocks(make_editor, images):
    editor = make_editor(parts=dict(low_mem=True))
    editor.invert(images, ['a red three'] * 2)
    twin = copy.deepcopy(editor)
    for parameter in editor.parts.unet.parameters():
        parameter.data.fill_(torch.nan)
    assert torch.isfinite(twin.invert(images, ['a red three'] * 2).recon).all()
    assert not [name for name, module in twin.named_modules() if 'forward' in vars(module)]


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has the switch')
def test_freed_blocks_go_back_to_the_system():
    done = [
        subprocess.run([sys.executable, '-c', SCRIPT, *args], check=True, capture_output=True, text=True).stdout.split()
        for args in ([], ['told'])
    ]
    (_, kept), (told, returned) = done
    assert told == 'True'
    assert int(kept) - int(returned) > 50  # MiB; 60 were freed
