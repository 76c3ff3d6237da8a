"""Engine on the visible sites only, in plain torch: rows ``(N, C)`` that lie cell by cell.

Not in the papers: our way to spend nothing on hidden sites. A 1x1 convolution is a product of the rows with the
weight. A larger one gathers, for each visible cell, the cell and the margin that the kernel reaches, and convolves
that small picture; where a cell has few sites the margin is most of it, and each site gets its own window, a row of a
matrix product. Batch norm sees the rows as one picture of ``N x 1`` sites. Legend as in ``engine.py``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..masks import ActiveMask
from .engine import Engine, SparseFeatures, compute_dtype, norm_rows, output_size, side

# Sites along the side of a cell from which cells are convolved whole. Measured on a CPU: at 4 the picture of a cell
# is as fast as the matrix product, at 8 a quarter faster, at 2 slower, backward twice.
WHOLE_CELLS = 4


class RowsEngine(Engine):
    """Layers on ``(N, C)``, the visible sites in the order of ``ActiveMask``."""

    name = 'rows'

    def _start(self, images: Tensor, mask: ActiveMask) -> SparseFeatures:
        return SparseFeatures(mask.take_cells(images), mask, tuple(images.shape[2:]), self)

    def to_dense(self, x: SparseFeatures) -> Tensor:
        """Put the rows into a map ``(B, C, H, W)``."""
        return x.mask.put_cells(x.data, x.size)

    def conv(self, x: SparseFeatures, layer: nn.Conv2d) -> SparseFeatures:
        """Convolve: a product of rows with the weight, or windows around cells or sites."""
        size = output_size(x.size, layer)
        if side(layer, 'kernel_size') == 1:
            rows = F.linear(self._every(x, side(layer, 'stride')), layer.weight.flatten(1), layer.bias)
        else:
            rows = self._conv(x, layer, size)
        return x.with_data(rows, size)

    @staticmethod
    def _every(x: SparseFeatures, stride: int) -> Tensor:
        """Rows of every ``stride``-th site of a cell in both directions."""
        if stride == 1:
            return x.data
        edge = x.mask.edge(x.size)
        return x.data.view(x.mask.num_cells, edge, edge, -1)[:, ::stride, ::stride].flatten(0, 2)

    def _conv(self, x: SparseFeatures, layer: nn.Conv2d, size: tuple[int, int]) -> Tensor:
        """Rows of a convolution with a kernel larger than one site; ``size`` is the output's."""
        kernel, stride, padding, dilation = (
            side(layer, name) for name in ('kernel_size', 'stride', 'padding', 'dilation')
        )
        edge = x.mask.edge(size)
        block = edge if edge >= WHOLE_CELLS else 1
        index = x.mask.windows(x.size, block, kernel, stride, padding, dilation)
        dtype = compute_dtype(x.data)  # not under autocast inside, so that forward and backward agree
        out = _WindowConv.apply(x.data.to(dtype), layer.weight.to(dtype), index, block, stride, dilation)
        return out if layer.bias is None else out + layer.bias

    def norm(self, x: SparseFeatures, norm: Callable[[Tensor], Tensor]) -> SparseFeatures:
        """Normalize the rows as one picture."""
        return x.with_data(norm_rows(x.data, norm))

    def max_pool(self, x: SparseFeatures, layer: nn.MaxPool2d) -> SparseFeatures:
        """Pool cells with their margin."""
        size = output_size(x.size, layer)
        kernel, stride, padding, dilation = (
            side(layer, name) for name in ('kernel_size', 'stride', 'padding', 'dilation')
        )
        block = x.mask.edge(size)
        index = x.mask.windows(x.size, block, kernel, stride, padding, dilation)
        if block == 1:
            dilation = 1  # the windows hold the sites in use only
        pictures = _gather(x.data, index).permute(0, 3, 1, 2)
        out = F.max_pool2d(pictures, kernel, stride, dilation=dilation)
        return x.with_data(out.permute(0, 2, 3, 1).flatten(0, 2), size)

    def scale_images(self, x: SparseFeatures, factors: Tensor) -> SparseFeatures:
        """Multiply each image by its factor."""
        cells = x.data.view(x.mask.num_cells, -1) * factors[x.mask.images][:, None]
        return x.with_data(cells.view_as(x.data))


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """Rows ``(N, C)`` at ``(blocks, q, q)``, where index ``N`` gives 0: ``(blocks, q, q, C)``."""
    return F.pad(rows, (0, 0, 0, 1)).index_select(0, index.flatten()).view(*index.shape, -1)


class _WindowConv(torch.autograd.Function):
    """Convolution of windows of rows; see ``ActiveMask.windows``.

    Keeps the rows for the backward pass, which the layer before keeps too, and gathers the windows again.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, index: Tensor, block: int, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(rows, weight, index)
        ctx.block, ctx.args = block, ([stride] * 2, [0] * 2, [dilation] * 2)
        windows = _windows(rows, index, block)
        if block == 1:
            return windows @ weight.flatten(1).t()
        out = F.conv2d(windows, weight, None, *ctx.args)
        return out.permute(0, 2, 3, 1).reshape(-1, weight.size(0))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, index = ctx.saved_tensors
        need_rows, need_weight = ctx.needs_input_grad[:2]
        windows = _windows(rows, index, ctx.block) if need_weight or ctx.block > 1 else None
        grad_windows = grad_weight = None
        if ctx.block == 1:
            if need_weight:
                grad_weight = (grad.t() @ windows).view_as(weight)
            if need_rows:
                grad_windows = (grad @ weight.flatten(1)).view(len(grad), rows.size(1), -1).transpose(1, 2)
        else:
            pictures = grad.view(-1, ctx.block, ctx.block, grad.size(1)).permute(0, 3, 1, 2)
            grad_windows, grad_weight, _ = torch.ops.aten.convolution_backward(
                pictures, windows, weight, None, *ctx.args, False, [0, 0], 1, [need_rows, need_weight, False]
            )
            if need_rows:
                grad_windows = grad_windows.permute(0, 2, 3, 1)
        grad_rows = None
        if need_rows:
            values = grad_windows.reshape(-1, rows.size(1))
            grad_rows = rows.new_zeros(len(rows) + 1, rows.size(1)).index_add_(0, index.flatten(), values)[:-1]
        return grad_rows, grad_weight, None, None, None, None


def _windows(rows: Tensor, index: Tensor, block: int) -> Tensor:
    """Gathered windows: pictures ``(blocks, C, q, q)``, or of blocks of one site ``(N, C k k)``, the weight's order."""
    windows = _gather(rows, index)
    if block > 1:
        return windows.permute(0, 3, 1, 2)
    return windows.flatten(1, 2).transpose(1, 2).flatten(1)
