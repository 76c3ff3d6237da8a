"""The multi-label loss against binary cross entropy and against numbers worked out by hand (invariant 12)."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmplugins.metr.asymmetric_loss import MultiLabelAsymmetricLoss


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_without_focusing_it_is_binary_cross_entropy_summed_over_names():
    logits, targets = torch.randn(3, 7), torch.rand(3, 7) < 0.4
    loss = MultiLabelAsymmetricLoss(gamma_pos=0, gamma_neg=0)(logits, targets)
    expected = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction='sum') / 3
    torch.testing.assert_close(loss, expected)


# p: 0.5 0.8 0.25 / 0.9 0.2 0.5; y: 1 0 0 / 0 1 0.
# Entries -log(p) for y=1, -p^2 log(1-p) for y=0:
ENTRIES = [
    [math.log(2), -(0.8**2) * math.log(0.2), -(0.25**2) * math.log(0.75)],
    [-(0.9**2) * math.log(0.1), -math.log(0.2), 0.5**2 * math.log(2)],
]


@pytest.fixture
def example():
    probability = [[0.5, 0.8, 0.25], [0.9, 0.2, 0.5]]
    logits = torch.tensor([[logit(p) for p in row] for row in probability])
    return logits, torch.tensor([[1, 0, 0], [0, 1, 0]])


def test_worked_example(example):
    expected = (sum(ENTRIES[0]) + sum(ENTRIES[1])) / 2
    assert MultiLabelAsymmetricLoss()(*example).item() == pytest.approx(expected, rel=1e-5)


def test_weights_are_normalized_within_the_image(example):
    weight = torch.tensor([[1, 0, 1], [0, 1, 0]])
    # V / sum of weights: 3/2 and 3/1
    expected = (1.5 * (ENTRIES[0][0] + ENTRIES[0][2]) + 3 * ENTRIES[1][1]) / 2
    assert MultiLabelAsymmetricLoss()(*example, weight).item() == pytest.approx(expected, rel=1e-5)


def test_image_without_weight_adds_nothing(example):
    weight = torch.tensor([[1, 1, 1], [0, 0, 0]])
    assert MultiLabelAsymmetricLoss()(*example, weight).item() == pytest.approx(sum(ENTRIES[0]) / 2, rel=1e-5)
    nothing = MultiLabelAsymmetricLoss()(*example, torch.zeros(2, 3))
    assert nothing.item() == 0


def test_loss_weight_scales(example):
    loss = MultiLabelAsymmetricLoss(loss_weight=0.25)(*example)
    torch.testing.assert_close(loss, MultiLabelAsymmetricLoss()(*example) / 4)


@pytest.mark.parametrize('gamma_pos', [0.0, 1.0], ids=['released', 'focused positives'])
def test_focusing_weights_are_detached(example, gamma_pos):
    logits = example[0].requires_grad_()
    MultiLabelAsymmetricLoss(gamma_pos=gamma_pos)(logits, example[1]).backward()
    p, y = logits.detach().sigmoid(), example[1]
    # d BCE / d logit = p - y, times the weight that is taken as a constant
    expected = (p - y) * torch.where(y == 1, (1 - p) ** gamma_pos, p**2) / 2
    torch.testing.assert_close(logits.grad, expected)


def test_masked_entries_get_no_gradient():
    logits = torch.randn(2, 4, requires_grad=True)
    weight = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]])
    MultiLabelAsymmetricLoss()(logits, torch.ones(2, 4), weight).backward()
    assert torch.equal(logits.grad != 0, weight.bool())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_and_confident_logits_are_finite(dtype):
    logits = torch.tensor([[40.0, -40.0, 1000.0]], dtype=dtype, requires_grad=True)
    loss = MultiLabelAsymmetricLoss()(logits, torch.tensor([[0, 1, 0]]))
    loss.backward()
    # Each entry is |logit|: log(1-p) = -x for a sure negative that is wrong.
    assert loss.item() == pytest.approx(1080, rel=1e-3)
    assert logits.grad.isfinite().all()


def test_it_is_zero_at_the_optimum_and_never_negative():
    targets = torch.tensor([[1, 0, 1, 0]])
    loss = MultiLabelAsymmetricLoss()
    assert loss(100.0 * (2 * targets - 1), targets).item() == pytest.approx(0, abs=1e-6)
    assert loss(5 * torch.randn(6, 4), torch.rand(6, 4) < 0.5).item() > 0
