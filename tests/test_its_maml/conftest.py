"""A tiny model, random episodes, and the drawings of Omniglot."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope, init_default_scope
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module', autouse=True)
def scope(default_scope) -> None:
    """Look bare names up in mmpretrain, as the configs do."""
    DefaultScope._instance_dict.clear()
    init_default_scope('mmpretrain')


@pytest.fixture
def network() -> dict:
    """Conv4 with 4 channels for 8x8 gray images and 3 ways."""
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='Conv4', in_channels=1, channels=4, strides=(2, 1, 1, 1), padding=1, pool_strides=(0, 2, 0, 0)
        ),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=16),
    )


@pytest.fixture
def build(network) -> Callable:
    """Build a RobustMAML of the tiny network in float64 from a fixed seed."""
    from mmplugins.its_maml import RobustMAML

    def build(double: bool = True, **kwargs) -> RobustMAML:
        torch.manual_seed(3)
        kwargs = dict(
            network=network,
            inner_lr=0.1,
            train_steps=2,
            test_steps=3,
            attack=dict(type='LinfAttack', eps=0.1),
            **kwargs,
        )
        model = RobustMAML(**kwargs)
        model.init_weights()
        return model.double() if double else model

    return build


@pytest.fixture
def episode() -> dict[str, Tensor]:
    """Three tasks of 3 ways, 2 shots, 4 queries, 8x8 pixels, float64."""
    generator = torch.Generator().manual_seed(5)
    means = torch.rand(3, 3, 1, 1, 8, 8, generator=generator, dtype=torch.float64)
    support = (means + 0.3 * torch.rand(3, 3, 2, 1, 8, 8, generator=generator, dtype=torch.float64)) / 1.3
    query = (means + 0.3 * torch.rand(3, 3, 4, 1, 8, 8, generator=generator, dtype=torch.float64)) / 1.3
    return dict(
        support=support.flatten(1, 2),
        support_labels=torch.arange(3).repeat_interleave(2).expand(3, -1),
        query=query.flatten(1, 2),
        query_labels=torch.arange(3).repeat_interleave(4).expand(3, -1),
        seed=torch.tensor([11, 12, 13]),
    )


@pytest.fixture
def meta_gradient() -> Callable:
    """Return the gradients of a model on an episode by name."""

    def meta_gradient(model, episode) -> dict[str, Tensor]:
        model.zero_grad()
        losses = model(**episode, mode='loss')
        losses['loss_meta'].backward()
        return {name: weight.grad.clone() for name, weight in model.learner.classifier.named_parameters()}

    return meta_gradient


@pytest.fixture(scope='session')
def omniglot() -> Callable:
    """Return the config of a part of the shipped drawings."""

    def omniglot(part: str, **kwargs) -> dict:
        return dict(
            type='PackedDataset',
            data_root=str(ROOT / 'tests/data/omniglot'),
            ann_file='omniglot28.npz',
            part=part,
            pipeline=[dict(type='PackInputs')],
            **kwargs,
        )

    return omniglot
