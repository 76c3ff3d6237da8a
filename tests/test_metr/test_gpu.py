"""METR on CUDA beside the CPU; there its attention is mmcv's kernel."""

import pytest
import torch
from mmcv.ops import multi_scale_deform_attn

kinds = pytest.mark.parametrize('kind', ['METR', 'DeformableMETR'])


@pytest.fixture
def build(build_detector):
    """Build a detector whose denoising queries have next to no noise: that is drawn on the device."""

    def build(kind):
        noise = dict(box_noise_scale=1e-9, group_cfg=dict(dynamic=True, num_dn_queries=8))
        return build_detector(kind, **(dict(dn_cfg=noise) if kind == 'METR' else {}))

    return build


@pytest.fixture
def losses(mixed_batch):
    """Return the losses of a model on the batch."""
    return lambda model, device: model(**model.data_preprocessor(mixed_batch, training=True), mode='loss')


@kinds
def test_float32_is_that_of_the_cpu(parity, device, build, losses, kind, monkeypatch):
    calls, kernel = [], multi_scale_deform_attn.ext_module.ms_deform_attn_forward
    monkeypatch.setattr(
        multi_scale_deform_attn.ext_module, 'ms_deform_attn_forward', lambda *a, **k: calls.append(1) or kernel(*a, **k)
    )
    parity.check_step(build(kind), losses, device)
    assert len(calls) == (4 if device == 'cuda' else 0)  # layers of the encoder and the decoder


@kinds
def test_half_precision_is_finite(parity, device, build, losses, kind):
    parity.check_half(build(kind), losses, device)


@kinds
def test_predictions_are_those_of_the_cpu(device, build, mixed_batch, kind):
    model, scores = build(kind).eval(), []
    for place in ('cpu', device):
        with torch.no_grad():
            samples = model.to(place).test_step(mixed_batch)
        scores.append([sample.pred_instances.scores.cpu() for sample in samples])
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-4)
