from types import SimpleNamespace

import numpy as np
import torch

from mmplugins.hgkd import EpochSeedHook


def drawn(seed: int, epoch: int, rank: int) -> tuple[float, float]:
    EpochSeedHook().before_train_epoch(SimpleNamespace(seed=seed, epoch=epoch, rank=rank))
    return torch.rand(1).item(), float(np.random.rand())


def test_only_seed_epoch_and_rank_matter():
    first = drawn(3, 5, 1)
    torch.rand(7)
    assert drawn(3, 5, 1) == first


def test_all_three_matter():
    keys = [(seed, epoch, rank) for seed in (0, 1) for epoch in (0, 1) for rank in (0, 1)]
    assert len({drawn(*key) for key in keys}) == len(keys)
