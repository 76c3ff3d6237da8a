"""Which patches are hidden: BEiT's blocks as the authors draw them, or single patches at random.

Sec. 4.1 of arXiv 2202.03026 and the authors' code: 98 of 196 patches (50 %). CAE v2 (arXiv 2211.09799) hides fewer in
smaller models: 30, 49 and 98 of 196 for Ti, S and B.
"""

from __future__ import annotations

import math

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.datasets.transforms import BEiTMaskGenerator
from mmpretrain.registry import TRANSFORMS

from .sizes import pair

# CAE v2, authors' README, as parts of 196 patches; L as B.
MASK_RATIOS = dict(tiny=30 / 196, small=49 / 196, base=98 / 196, large=98 / 196)


def count_masked(grid: tuple[int, int], num_masked: int | None, mask_ratio: float | str | None) -> int:
    """Return how many patches of a grid are hidden.

    Args:
        grid: ``(h, w)``.
        num_masked: The number itself, or None.
        mask_ratio: Part of the patches, rounded; or the size of a model, whose ratio in CAE v2 is taken.

    Raises:
        ValueError: Both or none are given, the size is unknown, or no or every patch would be hidden.
    """
    if (num_masked is None) == (mask_ratio is None):
        raise ValueError('give the number of masked patches or mask_ratio, not both')
    if isinstance(mask_ratio, str) and mask_ratio not in MASK_RATIOS:
        raise ValueError(f'mask_ratio={mask_ratio!r}; a number, or one of {sorted(MASK_RATIOS)}')
    num_patches = grid[0] * grid[1]
    if num_masked is None:
        num_masked = round(MASK_RATIOS.get(mask_ratio, mask_ratio) * num_patches)
    if not 0 < num_masked < num_patches:
        raise ValueError(f'between 1 and {num_patches - 1} of {num_patches} patches must be masked, got {num_masked}')
    return num_masked


@TRANSFORMS.register_module()
class InclusiveBlockMask(BEiTMaskGenerator):
    """Hide blocks of patches; exactly as many as asked for.

    The host draws the corner of a block with numpy's ``randint``, which never returns its upper bound, where the
    authors' ``random.randint`` does: the last row and the last column are never hidden there (27 of 196 places), all
    others too often. It also loops without end where no block fits any more.

    **Added keys:** ``mask``, ``(h, w)`` of bool, True where a patch is hidden.

    Args:
        input_size: Grid of patches, ``(h, w)`` or one number.
        num_masking_patches: How many are hidden; or
        mask_ratio: which part of them, or the size of a model: see :func:`count_masked`.
        min_num_patches: Least area of a block; 16, and on grids below 196 patches a quarter of what is hidden, at
            least 4 (the authors have one grid only: this rule is ours).
        **kwargs: The host's ``max_num_patches``, ``min_aspect``, ``max_aspect``.
    """

    attempts = 10  # authors' code

    def __init__(
        self,
        input_size: int | tuple[int, int],
        num_masking_patches: int | None = None,
        mask_ratio: float | str | None = None,
        min_num_patches: int | None = None,
        **kwargs,
    ) -> None:
        grid = pair(input_size)
        num_masked = count_masked(grid, num_masking_patches, mask_ratio)
        if min_num_patches is None:
            min_num_patches = 16 if grid[0] * grid[1] >= 196 else min(16, max(4, num_masked // 4))
        super().__init__(grid, num_masked, min_num_patches=min_num_patches, **kwargs)

    def _mask(self, mask: np.ndarray, max_mask_patches: int) -> int:
        """Hide one more block.

        Args:
            mask: ``(h, w)``, changed in place.
            max_mask_patches: At most so many patches may be added.

        Returns:
            How many were added; 0 if no attempt gave a block that fits.
        """
        uniform, randint = np.random.uniform, np.random.randint
        for _ in range(self.attempts):
            area = uniform(self.min_num_patches, max_mask_patches)
            aspect = math.exp(uniform(*self.log_aspect_ratio))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < height < self.height and 0 < width < self.width:
                top, left = randint(self.height - height + 1), randint(self.width - width + 1)
                block = mask[top : top + height, left : left + width]
                added = block.size - np.count_nonzero(block)
                if 0 < added <= max_mask_patches:
                    block[...] = True
                    return added
        return 0

    def transform(self, results: dict) -> dict:
        """Add ``mask``."""
        mask = np.zeros((self.height, self.width), dtype=bool)
        left, failures = self.num_masking_patches, 0
        while left and failures < self.attempts:
            added = self._mask(mask, min(left, self.max_num_patches))
            left -= added
            failures = 0 if added else failures + 1
        if left:  # ours: a grid too small or too full for another block gets single patches
            mask.flat[np.random.choice(np.flatnonzero(~mask), left, replace=False)] = True
        results['mask'] = mask
        return results


@TRANSFORMS.register_module()
class RandomPatchMask(BaseTransform):
    """Hide single patches, each subset of the right size with equal probability.

    **Added keys:** ``mask``, ``(h, w)`` of bool, True where a patch is hidden.

    Args:
        input_size: Grid of patches, ``(h, w)`` or one number.
        num_masking_patches: How many are hidden; or
        mask_ratio: which part of them, or the size of a model: see :func:`count_masked`.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        num_masking_patches: int | None = None,
        mask_ratio: float | str | None = None,
    ) -> None:
        self.grid = pair(input_size)
        self.num_masking_patches = count_masked(self.grid, num_masking_patches, mask_ratio)

    def transform(self, results: dict) -> dict:
        """Add ``mask``."""
        mask = np.zeros(self.grid, dtype=bool)
        mask.flat[np.random.permutation(mask.size)[: self.num_masking_patches]] = True
        results['mask'] = mask
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(grid={self.grid}, num_masking_patches={self.num_masking_patches})'
