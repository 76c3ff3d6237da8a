"""The whole detector: losses, predictions, all variants, bad input."""

import pytest

VARIANTS = {
    'base': {},
    'refine': dict(with_box_refine=True),
    'two_stage': dict(as_two_stage=True),
    'refine_two_stage': dict(with_box_refine=True, as_two_stage=True),
}


@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize('encoder', ['dwsep', 'deformable', 'none'])
def test_losses_and_gradients(build_model, make_batch, encoder, changes):
    model = build_model(encoder, **changes).train()
    losses = model.loss(*model.data_preprocessor(make_batch(), True).values())
    assert all(value.isfinite() for value in losses.values())
    expected = {'loss_cls', 'loss_bbox', 'loss_iou', 'd0.loss_cls', 'd0.loss_bbox', 'd0.loss_iou'}
    if changes.get('as_two_stage'):
        expected |= {'enc_loss_cls', 'enc_loss_bbox', 'enc_loss_iou'}
    assert set(losses) == expected
    sum(losses.values()).backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
