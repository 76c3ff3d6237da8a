"""Masks."""

import numpy as np
import pytest
from mmpretrain.datasets.transforms import BEiTMaskGenerator
from mmpretrain.registry import TRANSFORMS

from mmplugins.cae.masking import InclusiveBlockMask, RandomPatchMask

CASES = [((14, 14), 98), ((14, 14), 30), ((6, 9), 27), ((10, 4), 1), ((3, 3), 8), ((1, 8), 3)]


def draw(transform, times):
    return np.stack([transform.transform({})['mask'] for _ in range(times)])


@pytest.mark.parametrize('cls', [InclusiveBlockMask, RandomPatchMask])
@pytest.mark.parametrize(('grid', 'count'), CASES, ids=str)
def test_exactly_so_many_and_everywhere(cls, grid, count):
    masks = draw(cls(grid, count), 300)
    assert masks.shape == (300, *grid) and masks.dtype == bool
    assert (masks.sum((1, 2)) == count).all()
    assert masks.any(0).all()  # each place at some time


def test_last_row_is_masked_as_often_as_the_first():
    rate = draw(InclusiveBlockMask((14, 14), 98), 1000).mean(0)
    edges = [rate[0].mean(), rate[-1].mean(), rate[:, 0].mean(), rate[:, -1].mean()]
    assert min(edges) == pytest.approx(max(edges), abs=0.03) == pytest.approx(0.19, abs=0.02)


def test_host_never_masks_the_last_row_and_column():
    rate = draw(BEiTMaskGenerator((14, 14), 98, min_num_patches=16), 300).mean(0)
    assert (rate == 0).sum() == 27 and not rate[-1].any() and not rate[:, -1].any()  # what the override is for


def test_blocks_have_the_area_and_shape_asked_for():
    transform = InclusiveBlockMask((14, 14), 98)
    for _ in range(300):
        mask = np.zeros((14, 14), dtype=bool)
        added = transform._mask(mask, 98)  # the first block, on an empty grid
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert added == rows * columns == mask.sum()
        assert 16 - 4 <= added <= 98 and 0.2 < rows / columns < 5  # sides are rounded


@pytest.mark.parametrize(
    ('ratio', 'count'), [('tiny', 30), ('small', 49), ('base', 98), ('large', 98), (0.5, 98), (0.4, 78)]
)
def test_ratios(ratio, count):
    for cls in (InclusiveBlockMask, RandomPatchMask):
        assert draw(cls(14, mask_ratio=ratio), 1).sum() == count


def test_random_patches_are_uniform():
    rate = draw(RandomPatchMask((4, 6), 6), 4000).mean(0)
    assert rate == pytest.approx(np.full((4, 6), 0.25), abs=0.035)


def test_seed_decides():
    np.random.seed(3)
    first = draw(InclusiveBlockMask(14, 75), 5)
    np.random.seed(3)
    assert (first == draw(InclusiveBlockMask(14, 75), 5)).all()


@pytest.mark.parametrize('name', ['InclusiveBlockMask', 'RandomPatchMask'])
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_masking_patches=0), 'between 1 and 195 of 196 patches must be masked, got 0'),
        (dict(num_masking_patches=196), 'got 196'),
        (dict(mask_ratio=0.001), 'got 0'),
        (dict(mask_ratio='huge'), "mask_ratio='huge'"),
        (dict(), 'not both'),
        (dict(num_masking_patches=3, mask_ratio=0.5), 'not both'),
    ],
    ids=str,
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(dict(type=name, input_size=14, **arguments))
