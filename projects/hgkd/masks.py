"""The mask of one batch: which sites are visible on every level, and how rows of sites lie next to each other.

SparK (arXiv 2301.03580, sec. 3.1) hides whole cells as large as the encoder's stride and upsamples the map of the
visible ones to every level by repetition. mmpretrain keeps that map in a class attribute: absent before the first
loss, still there after it. Here it is an object that travels with the features.

Legend: ``B`` images, ``h, w`` cells of an image, ``n`` visible cells of the batch, ``H, W`` sites of a level,
``N`` visible sites of the batch on a level, ``e`` sites along the side of a cell.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Cached = TypeVar('Cached')


def draw_cells(
    batch_size: int,
    grid: tuple[int, int],
    mask_ratio: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Keep ``round(h w (1 - mask_ratio))`` cells of every image, at least one, all choices equally likely.

    Drawn on the CPU with the calls of mmpretrain's SparK: one seed gives the same mask there, here and on a GPU.

    Args:
        batch_size: ``B``.
        grid: ``(h, w)``.
        mask_ratio: Share of hidden cells, in [0, 1).
        generator: Of the noise; the global one by default.

    Returns:
        ``(B, 1, h, w)`` bool on the CPU, True is visible.
    """
    num = grid[0] * grid[1]
    keep = max(round(num * (1 - mask_ratio)), 1)
    index = torch.rand(batch_size, num, generator=generator).argsort(dim=1)[:, :keep]
    cells = torch.zeros(batch_size, num, dtype=torch.bool).scatter_(1, index, True)
    return cells.view(batch_size, 1, *grid)


def expand_active(active: Tensor, grid: tuple[int, int]) -> Tensor:
    """Repeat a map of mask cells up to a finer grid.

    Args:
        active: ``(B, 1, h, w)`` bool.
        grid: ``(H, W)``, multiples of ``(h, w)``.

    Returns:
        ``(B, H, W)`` bool.

    Raises:
        ValueError: The grid is no multiple.
    """
    rows, columns = active.shape[-2:]
    if grid[0] % rows or grid[1] % columns:
        raise ValueError(
            f'the grid of the features, {tuple(grid)}, is no multiple of that of the mask, {(rows, columns)}'
        )
    return active[:, 0].repeat_interleave(grid[0] // rows, dim=1).repeat_interleave(grid[1] // columns, dim=2)


class ActiveMask:
    """Visible cells of a batch and what follows from them on each level; computed once, kept as long as the object.

    Rows are ordered by image, cell (raster order), site within the cell (raster order). Sites of a cell are therefore
    one block of ``e * e`` rows, and the rows of a level with half the resolution are those of even sites.

    Args:
        cells: ``(B, 1, h, w)`` bool, True is visible.

    Raises:
        TypeError: ``cells`` is not bool.
        ValueError: ``cells`` is not ``(B, 1, h, w)``.
    """

    def __init__(self, cells: Tensor) -> None:
        if cells.dtype != torch.bool:
            raise TypeError(f'the active mask must be bool (True is visible), got {cells.dtype}')
        if cells.dim() != 4 or cells.size(1) != 1:
            raise ValueError(f'the active mask must be (B, 1, h, w), got {tuple(cells.shape)}')
        self.cells = cells
        self.batch_size, _, *grid = cells.shape
        self.grid: tuple[int, int] = tuple(grid)
        self.visible = cells.flatten().nonzero().squeeze(1)  # (n,), index of the visible cells among all B h w
        self._kept: dict[tuple, object] = {}

    @property
    def num_cells(self) -> int:
        """Visible cells of the batch, ``n``."""
        return len(self.visible)

    def check_images(self, images: Tensor) -> None:
        """See that images ``(B, C, H, W)`` fit the mask.

        Raises:
            ValueError: Another number of images, or sides that are not the same multiple of the mask's.
        """
        if len(images) != self.batch_size:
            raise ValueError(f'{len(images)} images, but a mask of {self.batch_size}')
        self.edge(images.shape[2:])

    def edge(self, size: tuple[int, int]) -> int:
        """Sites along the side of a cell on the level of size ``(H, W)``.

        Raises:
            ValueError: The level is not made of whole square cells.
        """
        edge = size[0] // self.grid[0]
        if edge < 1 or tuple(size) != (edge * self.grid[0], edge * self.grid[1]):
            raise ValueError(
                f'a level of {size[0]} x {size[1]} sites does not fit a mask of {self.grid[0]} x {self.grid[1]} cells: '
                'both sides must be the same multiple of it; the side of a cell must be the stride of the encoder, '
                'and the sides of the image multiples of it'
            )
        return edge

    def sites(self, size: tuple[int, int]) -> Tensor:
        """Visible sites of a level, ``(B, 1, H, W)`` bool."""
        edge = self.edge(size)
        return self.cached(('sites', edge), lambda: expand_active(self.cells, size).unsqueeze(1))

    def raster(self, size: tuple[int, int]) -> Tensor:
        """Index of every row among the ``B H W`` sites of the level in raster order, ``(N,)`` int64."""
        return self.cached(('raster', self.edge(size)), lambda: self._raster(size))

    def _raster(self, size: tuple[int, int]) -> Tensor:
        every = torch.arange(self.batch_size * size[0] * size[1], device=self.cells.device)
        return self.take_cells(every.view(self.batch_size, 1, *size)).flatten()

    @property
    def images(self) -> Tensor:
        """Image of every visible cell, ``(n,)`` int64."""
        return self.visible // (self.grid[0] * self.grid[1])

    def count_sites(self, size: tuple[int, int]) -> Tensor:
        """Visible sites of each image on a level, ``(B, 1)``; 1 where there are none, for means."""
        return self.cells.flatten(1).sum(dim=1, keepdim=True).clamp(min=1) * self.edge(size) ** 2

    def take_cells(self, x: Tensor) -> Tensor:
        """Rows of the visible sites of a map.

        Args:
            x: ``(B, C, H, W)``.

        Returns:
            ``(N, C)``.
        """
        (height, width), edge = self.grid, self.edge(x.shape[2:])
        cells = x.reshape(self.batch_size, -1, height, edge, width, edge).permute(0, 2, 4, 3, 5, 1)
        return cells.flatten(0, 2)[self.visible].flatten(0, 2)

    def put_cells(self, rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Map with the rows at the visible sites and 0 elsewhere; undoes ``take_cells``.

        Args:
            rows: ``(N, C)``.
            size: ``(H, W)``.

        Returns:
            ``(B, C, H, W)``.
        """
        (height, width), edge = self.grid, self.edge(size)
        cells = rows.new_zeros(self.batch_size * height * width, edge * edge * rows.size(1))
        cells[self.visible] = rows.reshape(self.num_cells, -1)
        cells = cells.view(self.batch_size, height, width, edge, edge, -1).permute(0, 5, 1, 3, 2, 4)
        return cells.reshape(self.batch_size, -1, *size)

    def windows(
        self, size: tuple[int, int], block: int, kernel: int, stride: int, padding: int, dilation: int
    ) -> Tensor:
        """Rows that a convolution needs for each block of ``block x block`` output sites.

        Args:
            size: ``(H, W)`` of the input's level.
            block: Output sites along the side of a block: 1, or as many as a cell has on the output's level.
            kernel: Side of the kernel.
            stride: Of the convolution.
            padding: Of the convolution.
            dilation: Of the convolution.

        Returns:
            ``(blocks, q, q)`` int64 with the ``q`` input sites along a side that the block reaches (of these, only
            the ``kernel`` that are used, for a block of one). ``N`` stands for a hidden site or one beyond the image.
        """
        key = ('windows', self.edge(size), block, kernel, stride, padding, dilation)
        return self.cached(key, lambda: self._windows(size, *key[2:]))

    def _windows(
        self, size: tuple[int, int], block: int, kernel: int, stride: int, padding: int, dilation: int
    ) -> Tensor:
        device, (height, width), edge = self.cells.device, self.grid, self.edge(size)
        if block == 1:
            reach = torch.arange(kernel, device=device) * dilation
        else:
            reach = torch.arange(stride * (block - 1) + dilation * (kernel - 1) + 1, device=device)
        starts = torch.arange(0, edge, stride * block, device=device) - padding
        offsets = starts[:, None] + reach  # (blocks along a side of a cell, q)
        y = (self.visible // width % height * edge)[:, None, None] + offsets
        x = (self.visible % width * edge)[:, None, None] + offsets
        row_of_cell = torch.full((self.batch_size * height * width,), -1, device=device)
        row_of_cell[self.visible] = torch.arange(self.num_cells, device=device)
        # (n, blocks, 1, q, 1) and (n, 1, blocks, 1, q): together every site of every block of every cell.
        y, x = y[:, :, None, :, None], x[:, None, :, None, :]
        inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
        first = (self.images * height * width).view(-1, 1, 1, 1, 1)
        cell = first + y.div(edge, rounding_mode='floor') * width + x.div(edge, rounding_mode='floor')
        cell = torch.where(inside, row_of_cell[cell.clamp(0, len(row_of_cell) - 1)], -1)
        rows = (cell * edge + y % edge) * edge + x % edge
        rows = torch.where(cell >= 0, rows, self.num_cells * edge * edge)
        return rows.reshape(-1, len(reach), len(reach))

    def cached(self, key: tuple, make: Callable[[], Cached]) -> Cached:
        """What ``make`` returned when the key was first asked for; engines keep here what depends on the mask only."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]
