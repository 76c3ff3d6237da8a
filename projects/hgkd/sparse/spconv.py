"""Engine on the visible sites whose larger convolutions are those of spconv; all else is that of ``rows``.

1x1 convolutions stay matrix products (spconv's 1x1 weight has a layout of its own), and max-pool stays torch's: that
of spconv starts from 0 and gives the gradient to every tied maximum. Legend as in ``engine.py``.
"""

import torch
from torch import Tensor, nn

from ..masks import ActiveMask
from .engine import SparseFeatures, compute_dtype, side
from .rows import RowsEngine
from .spconv_guard import load_spconv
from .spconv_layout import to_spconv


class SpconvEngine(RowsEngine):
    """Layers on ``(N, C)``, the visible sites in the order of ``ActiveMask``.

    Raises:
        ImportError: spconv is not installed, or more than one of its wheels is.
    """

    name = 'spconv'

    def __init__(self) -> None:
        self.ops, self.functional = load_spconv()

    def _start(self, images: Tensor, mask: ActiveMask) -> SparseFeatures:
        dtype, half = compute_dtype(images), torch.float16 if images.is_cuda else torch.float64
        if dtype not in (torch.float32, half):
            raise TypeError(
                f'the spconv engine computes in float32 or {half} on {images.device.type}, got {dtype}: train without '
                "AMP, or use backend='rows' or 'dense'"
            )
        return super()._start(images, mask)

    def _conv(self, x: SparseFeatures, layer: nn.Conv2d, size: tuple[int, int]) -> Tensor:
        args = [side(layer, name) for name in ('kernel_size', 'stride', 'padding', 'dilation')]
        pairs, counts, num, order = x.mask.cached(
            ('spconv', x.mask.edge(x.size), *args), lambda: self._pairs(x, args, size)
        )
        convolve = self.functional.indice_subm_conv if order is None else self.functional.indice_conv
        rows = convolve(x.data, to_spconv(layer.weight), pairs, counts, num, self._algo)
        rows = rows if order is None else rows[order]
        return rows if layer.bias is None else rows + layer.bias

    @property
    def _algo(self) -> object:
        return self.ops.ConvAlgo.Native  # the only one on a CPU, and for the 49 sites of a 7x7 kernel also on CUDA

    def _pairs(self, x: SparseFeatures, args: list[int], size: tuple[int, int]) -> tuple:
        """Pairs of input and output rows of a convolution, their number, that of output rows, and which are ours.

        A convolution with a stride puts out every site that it reaches, in no order. All visible ones are among them.
        """
        subm = args[1] == 1
        found, pairs, counts = self.ops.get_indice_pairs(
            _coordinates(x.mask, x.size), x.mask.batch_size, list(x.size), self._algo, *([arg, arg] for arg in args),
            [0, 0], subm,
        )  # fmt: skip
        if subm:
            return pairs, counts, len(found), None
        image, row, column = found.long().unbind(1)
        place = found.new_full((x.mask.batch_size * size[0] * size[1],), -1, dtype=torch.long)
        place[(image * size[0] + row) * size[1] + column] = torch.arange(len(found), device=found.device)
        return pairs, counts, len(found), place[x.mask.raster(size)]


def _coordinates(mask: ActiveMask, size: tuple[int, int]) -> Tensor:
    """Image, row and column of the visible sites, ``(N, 3)``: int32 and contiguous, or spconv is silently wrong."""
    raster, (height, width) = mask.raster(size), size
    parts = (raster // (height * width), raster // width % height, raster % width)
    return torch.stack(parts, dim=1).int().contiguous()
