"""Engine on the visible sites only, in plain torch: rows ``(N, C)`` that lie cell by cell.

Not in the papers: our way to spend nothing on hidden sites. A 1x1 convolution is a product of the rows with the
weight. A larger one gathers, for each visible cell, the cell and the margin that the kernel reaches, and convolves
that small picture; where a cell has few sites the margin is most of it, and each site gets its own window, a row of a
matrix product, in groups if the layer has some. Norms see the rows as one picture of ``N x 1`` sites. Legend as in
``engine.py``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..masks import ActiveMask
from .engine import Engine, SparseFeatures, Window, apply_to_rows, compute_dtype, window_of

# Sites along the side of a cell from which cells are convolved whole. Measured on a CPU: at 4 sites the picture of a
# cell is as fast as the matrix product; at 8 sites a quarter faster; at 2 sites slower, and the backward pass takes
# twice as long.
WHOLE_CELLS = 4


class RowsEngine(Engine):
    """Layers on ``(N, C)``, the visible sites in the order of ``ActiveMask``."""

    name = 'rows'

    def _start(self, images: Tensor, mask: ActiveMask) -> SparseFeatures:
        return SparseFeatures(mask.take_cells(images), mask, tuple(images.shape[2:]), self)

    def to_dense(self, x: SparseFeatures) -> Tensor:
        """Put the rows into a map ``(B, C, H, W)``."""
        return x.mask.put_cells(x.data, x.size)

    def conv(self, x: SparseFeatures, layer: nn.Conv2d, forward: Callable[[Tensor], Tensor]) -> SparseFeatures:
        """Convolve: a product of rows with the weight, or windows around cells or sites.

        The layer is called, and asks the engine; its weight is read here, because rows are no map that its own forward
        could convolve.
        """
        window = window_of(x.size, layer)
        if window.kernel == 1 and layer.groups == 1:
            rows = F.linear(self._every(x, window.stride), layer.weight.flatten(1), layer.bias)
        else:
            rows = self._conv(x, layer, window)
        return x.with_data(rows, window.size)

    @staticmethod
    def _every(x: SparseFeatures, stride: int) -> Tensor:
        """Rows of every ``stride``-th site of a cell in both directions."""
        if stride == 1:
            return x.data
        edge = x.mask.edge(x.size)
        return x.data.view(x.mask.num_cells, edge, edge, -1)[:, ::stride, ::stride].flatten(0, 2)

    def _conv(self, x: SparseFeatures, layer: nn.Conv2d, window: Window) -> Tensor:
        """Rows of a convolution with a kernel larger than one site, or with groups."""
        block, index = self._windows(x, window)
        dtype = compute_dtype(x.data)  # not under autocast inside, so that forward and backward agree
        args = (block, window.stride, window.dilation, layer.groups)
        out = _WindowConv.apply(x.data.to(dtype), layer.weight.to(dtype), index, *args)
        return out if layer.bias is None else out + layer.bias

    @staticmethod
    def _windows(x: SparseFeatures, window: Window, whole: int = WHOLE_CELLS) -> tuple[int, Tensor]:
        """Return the side of the blocks of outputs that are computed at once, and the rows that each needs."""
        edge = x.mask.edge(window.size)
        block = edge if edge >= whole else 1
        return block, x.mask.windows(x.size, block, *window[1:])

    def each_site(self, x: SparseFeatures, forward: Callable[[Tensor], Tensor]) -> SparseFeatures:
        """Apply the layer to the rows."""
        return x.with_data(apply_to_rows(x, x.data, forward))

    def pool(
        self, x: SparseFeatures, layer: nn.MaxPool2d | nn.AvgPool2d, forward: Callable[[Tensor], Tensor]
    ) -> SparseFeatures:
        """Pool cells with their margin."""
        window = window_of(x.size, layer)
        block, index = self._windows(x, window, whole=1)
        pictures = _gather(x.data, index).permute(0, 3, 1, 2)
        if isinstance(layer, nn.AvgPool2d):
            out = F.avg_pool2d(pictures, window.kernel, window.stride)
        else:  # windows of a single output hold the sites in use only
            out = F.max_pool2d(pictures, window.kernel, window.stride, dilation=1 if block == 1 else window.dilation)
        return x.with_data(out.permute(0, 2, 3, 1).flatten(0, 2), window.size)

    def mean(self, x: SparseFeatures) -> Tensor:
        """Sum of the rows of each image, by their number."""
        cells = x.data.view(x.mask.num_cells, -1, x.data.size(1)).sum(dim=1)
        total = cells.new_zeros(x.mask.batch_size, x.data.size(1)).index_add_(0, x.mask.images, cells)
        return total / x.mask.count_sites(x.size)

    def scale_images(self, x: SparseFeatures, factors: Tensor) -> SparseFeatures:
        """Multiply each image by its factors."""
        cells = x.data.view(x.mask.num_cells, -1, x.data.size(1)) * factors[x.mask.images][:, None]
        return x.with_data(cells.flatten(0, 1))


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """Rows ``(N, C)`` at ``(blocks, q, q)``, where index ``N`` gives 0: ``(blocks, q, q, C)``."""
    return F.pad(rows, (0, 0, 0, 1)).index_select(0, index.flatten()).view(*index.shape, -1)


class _WindowConv(torch.autograd.Function):
    """Convolution of windows of rows; see ``ActiveMask.windows``.

    Keeps the rows for the backward pass, which the layer before keeps too, and gathers the windows again.
    """

    @staticmethod
    def forward(
        ctx, rows: Tensor, weight: Tensor, index: Tensor, block: int, stride: int, dilation: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(rows, weight, index)
        ctx.block, ctx.groups, ctx.args = block, groups, ([stride] * 2, [0] * 2, [dilation] * 2)
        windows = _windows(rows, index, block)
        if block == 1:
            return torch.einsum('ngi,gki->ngk', windows.unflatten(1, (groups, -1)), _per_group(weight, groups)).flatten(
                1
            )
        out = F.conv2d(windows, weight, None, *ctx.args, groups)
        return out.permute(0, 2, 3, 1).reshape(-1, weight.size(0))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, index = ctx.saved_tensors
        need_rows, need_weight = ctx.needs_input_grad[:2]
        windows = _windows(rows, index, ctx.block) if need_weight or ctx.block > 1 else None
        grad_windows = grad_weight = None
        if ctx.block == 1:
            grad = grad.unflatten(1, (ctx.groups, -1))
            if need_weight:
                windows = windows.unflatten(1, (ctx.groups, -1))
                grad_weight = torch.einsum('ngk,ngi->gki', grad, windows).reshape(weight.shape)
            if need_rows:
                grad_windows = torch.einsum('ngk,gki->ngi', grad, _per_group(weight, ctx.groups))
                grad_windows = grad_windows.reshape(len(grad), rows.size(1), -1).transpose(1, 2)
        else:
            pictures = grad.view(-1, ctx.block, ctx.block, grad.size(1)).permute(0, 3, 1, 2)
            grad_windows, grad_weight, _ = torch.ops.aten.convolution_backward(
                pictures, windows, weight, None, *ctx.args, False, [0, 0], ctx.groups, [need_rows, need_weight, False]
            )
            if need_rows:
                grad_windows = grad_windows.permute(0, 2, 3, 1)
        grad_rows = None
        if need_rows:
            values = grad_windows.reshape(-1, rows.size(1))
            grad_rows = rows.new_zeros(len(rows) + 1, rows.size(1)).index_add_(0, index.flatten(), values)[:-1]
        return grad_rows, grad_weight, None, None, None, None, None


def _per_group(weight: Tensor, groups: int) -> Tensor:
    """Weight ``(K, C / g, k, k)`` as ``(g, K / g, C k k / g)``."""
    return weight.flatten(1).unflatten(0, (groups, -1))


def _windows(rows: Tensor, index: Tensor, block: int) -> Tensor:
    """Gathered windows: pictures ``(blocks, C, q, q)``, or of blocks of one site ``(N, C k k)``, the weight's order."""
    windows = _gather(rows, index)
    if block > 1:
        return windows.permute(0, 3, 1, 2)
    return windows.flatten(1, 2).transpose(1, 2).flatten(1)
