"""Relative position bias of BEiT for grids of any size.

Shapes: a grid has ``h`` rows and ``w`` columns of patches; a table has a row for each offset, a column for each head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def relative_position_index(grid: tuple[int, int], device: torch.device | str = 'cpu') -> Tensor:
    """Rows of the bias table for every pair of tokens of a grid.

    Args:
        grid: Rows and columns of patches, (h, w).
        device: Where to make it.

    Returns:
        Tensor (1 + h*w, 1 + h*w), integers below (2h - 1) * (2w - 1) + 3; the last three rows of the table are for
        class token to patch, patch to class token, class token to itself, as in BEiT.
    """
    rows, columns = grid
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing='ij')
    y, x = y.flatten(), x.flatten()
    patches = (2 * rows - 1) * (2 * columns - 1)
    index = torch.empty(1 + rows * columns, 1 + rows * columns, dtype=torch.long, device=device)
    index[1:, 1:] = (y[:, None] - y + rows - 1) * (2 * columns - 1) + (x[:, None] - x + columns - 1)
    index[0], index[1:, 0], index[0, 0] = patches, patches + 1, patches + 2
    return index


def resize_bias_table(table: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Resize the bias table of a grid to another grid, nearest offsets on nearest, farthest on farthest.

    Not in the paper, where each task has one image size: bicubic, our decision.

    Args:
        table: Tensor ((2h - 1) * (2w - 1) + 3, heads).
        source: The table's grid (h, w).
        target: The wanted grid (h', w').

    Returns:
        Tensor ((2h' - 1) * (2w' - 1) + 3, heads).
    """
    if source == target:
        return table
    patches = table[:-3].T.reshape(1, -1, 2 * source[0] - 1, 2 * source[1] - 1)
    size = (2 * target[0] - 1, 2 * target[1] - 1)
    # Interpolation is done in float32: half precision has no bicubic kernel on every device.
    resized = F.interpolate(patches.float(), size=size, mode='bicubic', align_corners=True).to(table.dtype)
    return torch.cat([resized.flatten(2)[0].T, table[-3:]])
