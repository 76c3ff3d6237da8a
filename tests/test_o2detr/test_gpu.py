"""O²DETR on CUDA beside the CPU; there its deformable attention and rotated operations are mmcv's kernels."""

import copy

import pytest
import torch
from mmcv.ops import multi_scale_deform_attn

VARIANTS = {
    'refine_two_stage': ('dwsep', dict(with_box_refine=True, as_two_stage=True)),
    'deformable': ('deformable', dict(with_box_refine=True)),
}
variants = pytest.mark.parametrize('variant', [*VARIANTS, 'cascade'])


@pytest.fixture
def build(build_model, cascade_changes):
    """Build a variant, its weights moved off the start values, where samples lie on the borders of cells."""

    def build(variant):
        encoder, changes = VARIANTS.get(variant, ('dwsep', {}))
        if variant == 'cascade':
            changes = cascade_changes()
            for stage in changes['train_cfg.rcnn']:
                stage['sampler']['num'] = 4096  # all: which ones are left out is drawn on the device
        model = build_model(encoder, **changes)
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        return model

    return build


@pytest.fixture
def losses(make_batch):
    """Return the losses of a model on two images."""
    batch = make_batch()
    return lambda model, device: model(**model.data_preprocessor(copy.deepcopy(batch), training=True), mode='loss')


@variants
def test_float32_is_that_of_the_cpu(parity, device, build, losses, variant, monkeypatch):
    calls, kernel = [], multi_scale_deform_attn.ext_module.ms_deform_attn_forward
    monkeypatch.setattr(
        multi_scale_deform_attn.ext_module, 'ms_deform_attn_forward', lambda *a, **k: calls.append(1) or kernel(*a, **k)
    )
    parity.check_step(build(variant).train(), losses, device)
    layers = 4 if variant == 'deformable' else 2
    assert len(calls) == (layers if device == 'cuda' else 0)


@variants
def test_half_precision_is_finite(parity, device, build, losses, variant):
    parity.check_half(build(variant).train(), losses, device)


@variants
def test_predictions_are_those_of_the_cpu(device, build, make_batch, variant):
    model, scores = build(variant).eval(), []
    for place in ('cpu', device):
        with torch.no_grad():
            samples = model.to(place).test_step(make_batch())
        scores.append([sample.pred_instances.scores.cpu() for sample in samples])
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-4)


def test_rotated_iou_has_a_gradient_on_cuda_only(parity, device, build_model, losses):
    model = build_model(**{'bbox_head.loss_iou': dict(type='RotatedIoULoss')}).train()
    if device == 'cpu':
        with pytest.raises(RuntimeError, match='CUDA'):
            parity.step(model, losses, device)
    else:
        assert all(value.isfinite().all() for value in parity.step(model, losses, device).values())
