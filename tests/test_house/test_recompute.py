"""Activation checkpointing that counts each batch once."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from mmplugins.utils.recompute import recompute


@pytest.mark.parametrize('momentum', [0.1, None])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_gradients_and_statistics_are_those_without(momentum, training):
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=momentum), nn.ReLU(), nn.BatchNorm2d(4))
    plain.train(training)
    ours, x = deepcopy(plain), torch.randn(2, 3, 5, 5, requires_grad=True)
    for _ in range(2):
        gradients = [
            torch.autograd.grad(call(x).square().sum(), [x, *model.parameters()])
            for model, call in ((plain, plain), (ours, lambda x: recompute(ours, ours, x)))
        ]
        torch.testing.assert_close(*gradients)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())
    assert ours[1].momentum == momentum and ours[1].num_batches_tracked == 2 * training
