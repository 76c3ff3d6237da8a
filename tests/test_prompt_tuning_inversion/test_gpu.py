"""Prompt Tuning Inversion on CUDA beside the CPU: what is tuned, the edit, and both with a UNet in half precision."""

from copy import deepcopy

import pytest
import torch
from mmengine.registry import METRICS

SOURCES, TARGETS = ['a red three', 'a blue two'], ['a green three', 'a red two']


def edit(editor, images, device) -> dict[str, torch.Tensor]:
    """Invert and edit; what comes out of each step."""
    editor = deepcopy(editor).to(device)
    inversion = editor.invert(images.to(device), TARGETS, SOURCES)
    found = dict(
        noise=inversion.noise,
        embeds=inversion.embeds,
        recon=inversion.recon,
        edited=editor.edit(inversion, TARGETS, 0.7),
    )
    return {name: value.float().cpu() for name, value in found.items()}


@pytest.mark.parametrize('kind', ['PromptTuningInversion', 'NullTextInversionEditor'])
def test_float32_is_that_of_the_cpu(parity, device, make_editor, images, kind):
    """Each update divides by the size of the gradient, which makes rounding larger."""
    editor = make_editor(kind)
    parity.assert_same(edit(editor, images, device), edit(editor, images, 'cpu'), tolerance=1e-2)


@pytest.mark.parametrize('low_mem', [False, True])
@pytest.mark.parametrize('dtype', ['fp16', 'bf16'])
def test_half_precision_edit_is_finite(device, make_editor, images, dtype, low_mem):
    found = edit(make_editor(parts=dict(dtype=dtype, low_mem=low_mem)), images, device)
    assert all(value.isfinite().all() for value in found.values())
    assert found['edited'].abs().max() <= 1 and found['edited'].std() > 0


@pytest.mark.parametrize(('kind', 'network'), [('EditStructureDistance', 'vit'), ('EditCLIPScore', 'clip')])
def test_networks_of_metrics_are_those_of_the_cpu(device, request, kind, network):
    folder = str(request.getfixturevalue(network)[0])
    image, picture = torch.rand(2, 3, 16, 16) * 2 - 1
    sample = dict(prompt='a red three', source=image, mask=None)
    here, there = (METRICS.build(dict(type=kind, pretrained=folder, device=str(one))) for one in ('cpu', device))
    expected = here.judge(picture, sample)
    assert expected > 1e-4
    assert there.judge(picture, sample) == pytest.approx(expected, rel=1e-2)
