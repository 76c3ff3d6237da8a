import math

import pytest
import torch
from mmpretrain.registry import MODELS

from mmplugins.hgkd.head import FeaturePredictHead
from mmplugins.hgkd.masks import expand_active


def brute_force(pred, target, active, loss_type, beta, supervise):
    """The formula with loops over images, rows and columns."""
    total = count = 0.0
    batch, channels, rows, columns = pred.shape
    for b in range(batch):
        for y in range(rows):
            for x in range(columns):
                seen = bool(active[b, 0, y * active.shape[2] // rows, x * active.shape[3] // columns])
                if supervise == 'masked' and seen or supervise == 'visible' and not seen:
                    continue
                z, t = pred[b, :, y, x].tolist(), target[b, :, y, x].tolist()
                if loss_type == 'cosine':
                    dot = sum(p * q for p, q in zip(z, t, strict=True))
                    value = 1 - dot / math.sqrt(sum(p * p for p in z) * sum(q * q for q in t))
                else:
                    value = 0.0
                    for p, q in zip(z, t, strict=True):
                        gap = abs(p - q)
                        if loss_type == 'mse':
                            value += gap**2
                        else:
                            value += gap**2 / (2 * beta) if gap < beta else gap - beta / 2
                    value /= channels
                total += value
                count += 1
    return total / count


@pytest.mark.parametrize('supervise', ['all', 'masked', 'visible'])
@pytest.mark.parametrize('loss_type', ['smooth_l1', 'mse', 'cosine'])
def test_equals_loops(loss_type, supervise, make_active):
    head = MODELS.build(dict(type='FeaturePredictHead', loss_type=loss_type, beta=1.5, supervise=supervise))
    pred, target = 2 * torch.randn(2, 5, 4, 6), 2 * torch.randn(2, 5, 4, 6)
    active = make_active(2, 2, 3, 2)
    expected = brute_force(pred, target, active, loss_type, 1.5, supervise)
    assert head(pred, target, active).item() == pytest.approx(expected, rel=1e-5)


def test_is_zero_at_the_target_and_has_no_parameters(make_active):
    target = torch.randn(2, 5, 4, 4)
    for loss_type in ('smooth_l1', 'mse', 'cosine'):
        head = FeaturePredictHead(loss_type)
        assert head(target, target, make_active()).item() == pytest.approx(0, abs=1e-6)
    assert not list(head.parameters())


@pytest.mark.parametrize(('supervise', 'seen_counts'), [('visible', True), ('masked', False)])
def test_gradient_only_where_supervised(supervise, seen_counts, make_active):
    pred = torch.randn(2, 5, 4, 4, requires_grad=True)
    active = make_active()
    FeaturePredictHead(supervise=supervise)(pred, torch.randn(2, 5, 4, 4), active).backward()
    has_gradient = pred.grad.abs().sum(dim=1) > 0
    assert torch.equal(has_gradient, expand_active(active, (4, 4)) == seen_counts)


def test_half_precision_is_computed_in_float32(make_active):
    pred, target = 300 * torch.randn(2, 64, 4, 4), 300 * torch.randn(2, 64, 4, 4)
    loss = FeaturePredictHead('mse')(pred.half(), target, make_active())
    assert loss.dtype == torch.float32 and torch.isfinite(loss)  # 300² · 4 overflows float16


def test_nothing_supervised_gives_zero_with_a_gradient(make_active):
    pred = torch.randn(1, 5, 4, 4, requires_grad=True)
    loss = FeaturePredictHead(supervise='masked')(pred, torch.randn(1, 5, 4, 4), torch.ones(1, 1, 2, 2).bool())
    loss.backward()
    assert loss.item() == 0 and not pred.grad.any()


def test_errors(make_active):
    active = make_active()
    for wrong in (dict(loss_type='l3'), dict(supervise='some'), dict(beta=0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FeaturePredictHead(**wrong)
    head = FeaturePredictHead()
    with pytest.raises(ValueError, match='differ in shape'):
        head(torch.zeros(2, 5, 4, 4), torch.zeros(2, 6, 4, 4), active)
    with pytest.raises(ValueError, match='no multiple'):
        head(torch.zeros(2, 5, 3, 4), torch.zeros(2, 5, 3, 4), active)


def test_a_target_that_is_not_finite_is_refused(make_active):
    head, active = FeaturePredictHead(), make_active()
    target = torch.zeros(2, 5, 4, 4)
    target[0, 0, 0, 0] = float('nan')
    with pytest.raises(FloatingPointError, match='target'):
        head(torch.zeros(2, 5, 4, 4), target, active)
