"""The mixing of several sets."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from mmdet.registry import DATA_SAMPLERS
from mmengine.config import Config
from torch.utils.data import ConcatDataset

import mmplugins.metr  # noqa: F401

SIZES = (3, 50, 20)


def concat(sizes=SIZES) -> ConcatDataset:
    return ConcatDataset([range(size) for size in sizes])


def build(dataset=None, ratio=(1, 4, 4), seed=0, **more):
    return DATA_SAMPLERS.build(
        dict(type='InfiniteRatioSampler', dataset=dataset or concat(), dataset_ratio=ratio, seed=seed, **more)
    )


def sets_of(indices) -> list[int]:
    return np.searchsorted(np.cumsum(SIZES), indices, side='right').tolist()


@pytest.mark.parametrize('ratio', [(1, 4, 4), (2, 0, 1), (3, 1, 1)])
def test_shares_are_exact_in_every_period(ratio):
    drawn = sets_of(list(islice(build(ratio=ratio), 40 * sum(ratio))))
    for start in range(0, len(drawn), sum(ratio)):
        found = Counter(drawn[start : start + sum(ratio)])
        assert [found[i] for i in range(3)] == list(ratio)


def test_the_order_within_periods_differs():
    drawn = sets_of(list(islice(build(), 90)))
    assert len({tuple(drawn[i : i + 9]) for i in range(0, 90, 9)}) > 5


def test_every_sample_once_before_any_comes_again():
    drawn = np.array(list(islice(build(), 9 * 100)))
    for start, size in zip((0, 3, 53), SIZES, strict=True):
        own = drawn[(drawn >= start) & (drawn < start + size)]
        passes = [own[i : i + size].tolist() for i in range(0, len(own) - size + 1, size)]
        assert len(passes) >= 2
        assert all(sorted(one) == list(range(start, start + size)) for one in passes)
        assert passes[0] != passes[1]


def test_ranks_take_turns(monkeypatch):
    expected = list(islice(build(), 30))
    ranks = []
    for rank in range(3):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 3))
        ranks.append(list(islice(build(), 10)))
    assert [index for turn in zip(*ranks, strict=True) for index in turn] == expected


def test_seed():
    assert list(islice(build(), 50)) == list(islice(build(), 50))
    assert list(islice(build(), 50)) != list(islice(build(seed=1), 50))


def test_skip_goes_on_where_a_run_was_cut_off():
    expected = list(islice(build(), 60))[45:]
    sampler = build()
    sampler.skip(45)
    assert list(islice(sampler, 15)) == expected


def test_a_step_costs_the_same_whatever_the_sizes_are():
    """mmdet's sampler draws an epoch, here 3.6 million, before it gives the first."""
    sampler = build(concat((118_287, 1_742_289, 1_743_042)))
    assert len(sampler) == 3_603_618
    drawn = np.array(list(islice(sampler, 9000)))
    assert ((drawn < 118_287).sum(), (drawn >= 118_287 + 1_742_289).sum()) == (1000, 4000)


@pytest.mark.parametrize('ratio', [(1, 2), (1, -1, 1), (0, 0, 0), (0.5, 1, 1)], ids=str)
def test_bad_ratios(ratio):
    with pytest.raises(ValueError, match='one whole number for each of 3 sets'):
        build(ratio=ratio)


def test_shuffle_is_taken_over_from_the_base_of_a_config(repo):
    cfg = Config.fromfile(repo / 'configs/metr/metr_dino-r18_1xb4-10e_samples.py')
    cfg.merge_from_dict(dict(train_dataloader=dict(sampler=dict(type='InfiniteRatioSampler', dataset_ratio=(1, 4, 4)))))
    sampler = DATA_SAMPLERS.build(cfg.train_dataloader.sampler, default_args=dict(dataset=concat(), seed=0))
    assert list(islice(sampler, 50)) == list(islice(build(), 50))
    with pytest.raises(ValueError, match='random order only: leave out `shuffle=False`'):
        build(shuffle=False)


def test_empty_set_and_single_set():
    with pytest.raises(ValueError, match='samples of an empty set'):
        build(ConcatDataset([range(3), range(0)]), ratio=(1, 1))
    with pytest.raises(TypeError, match='not a range'):
        build(range(3), ratio=(1,))
