"""Places of tokens: which are visible, which masked, and the position embedding of a grid.

Shapes: ``B`` images, ``N`` patches of a grid, ``M`` of them masked, ``V = N - M`` visible, ``C`` channels.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import torch
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from torch import Tensor


class Places(NamedTuple):
    """Places in the grid of visible tokens ``(B, V)`` and of masked ones ``(B, M)``, both in raster order."""

    visible: Tensor
    masked: Tensor

    def swapped(self) -> Places:
        """Return the places of the complementary mask."""
        return Places(self.masked, self.visible)


def common_count(mask: Tensor) -> int:
    """Return how many patches each row of a mask ``(B, N)`` covers.

    Raises:
        ValueError: The rows differ in number, or no patch or every patch is masked.
    """
    counts = mask.sum(dim=1)
    low, high = torch.stack([counts.min(), counts.max()]).tolist()
    if low != high:
        raise ValueError(f'all masks of a batch must cover the same number of patches, got {low} to {high}')
    if not 0 < low < mask.size(1):
        raise ValueError(f'between 1 and {mask.size(1) - 1} of {mask.size(1)} patches must be masked, got {low}')
    return low


def split_places(mask: Tensor | Places, num_masked: int | None = None) -> Places:
    """Return the places of visible and of masked tokens.

    Args:
        mask: ``(B, N)``, True where a patch is masked, the same number in each row; or what this function returned.
        num_masked: ``M``, where it is known; counting it in a mask on a GPU makes the host wait.

    Raises:
        ValueError: See :func:`common_count`.
    """
    if isinstance(mask, Places):
        return mask
    num_visible = mask.size(1) - (common_count(mask) if num_masked is None else num_masked)
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    return Places(order[:, :num_visible], order[:, num_visible:])


def tokens_at(tokens: Tensor, places: Tensor) -> Tensor:
    """Return the tokens ``(B, K, C)`` of ``(B, N, C)`` at ``places`` ``(B, K)``; ``tokens`` may have ``B = 1``."""
    index = places[..., None].expand(-1, -1, tokens.size(-1))
    return tokens.expand(len(places), -1, -1).gather(1, index)


def sincos_table(grid: tuple[int, int], dims: int) -> Tensor:
    """Fixed position embedding ``(1, 1 + h w, dims)`` of a grid ``(h, w)``; zeros for the CLS token.

    Four groups of ``dims / 4`` channels: sine and cosine of the *row*, then of the *column*, frequencies
    ``10000^(-4 i / dims)``. MAE puts the column first.
    """
    if dims % 4:
        raise ValueError(f'the sine-cosine position embedding needs a multiple of 4 channels, got {dims}')
    # The host's function takes (h, w) but lays the table out as w rows of h: on a square grid nobody can tell.
    return build_2d_sincos_position_embedding(grid[::-1], dims, cls_token=True)


def is_sincos(table: Tensor, grid: tuple[int, int]) -> bool:
    """Tell whether a position table ``(1, 1 + h w, D)``, maybe in bfloat16, is :func:`sincos_table` of a grid."""
    return torch.allclose(table.float().cpu(), sincos_table(grid, table.size(2)), atol=1e-2)


def grid_of_table(table: Tensor, own: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the grid ``(h, w)`` of a position table ``(1, 1 + h w, D)``.

    A checkpoint does not say it. A sine-cosine table shows it; any other is taken as ``own`` or as square.

    Args:
        table: Of a checkpoint.
        own: Grid that the table has if the number of patches allows it, as a model's own that was resized before.

    Raises:
        ValueError: The table is not a sine-cosine one and not square.
    """
    num_patches = table.size(1) - 1
    for height in (n for n in range(1, num_patches + 1) if num_patches % n == 0):
        grid = (height, num_patches // height)
        if is_sincos(table, grid):
            return grid
    if own is not None and own[0] * own[1] == num_patches:
        return own
    side = round(sqrt(num_patches))
    if side**2 != num_patches:
        raise ValueError(f'pos_embed of {num_patches} patches is neither a sine-cosine table nor square')
    return side, side
