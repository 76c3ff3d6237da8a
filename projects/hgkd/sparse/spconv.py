"""Engine on the visible sites whose larger convolutions are those of spconv; all else is that of ``rows``.

1x1 convolutions stay matrix products (spconv's 1x1 weight has a layout of its own), and max-pool stays torch's: that
of spconv starts from 0 and gives the gradient to every tied maximum. Legend as in ``engine.py``.

spconv 2.3.8 on a CPU, measured: with more than one thread ``scatter_add`` shares two pointers between threads, and
output and input gradient are wrong at some sites, others each time; ``indice_conv_backward`` asks for a CUDA stream,
and fails. Both are mended when an engine is built; before that nothing of spconv is imported or changed.
"""

import functools
import re
from collections.abc import Callable
from importlib.metadata import distributions
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ..masks import ActiveMask
from .engine import SparseFeatures, Window, compute_dtype
from .rows import RowsEngine

INSTALL = 'pip install "spconv>=2.3.8" (CPU), or spconv-cu126 (CUDA 12.6; others in DETAILS.md of hgkd)'


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

    def _conv(self, x: SparseFeatures, layer: nn.Conv2d, window: Window) -> Tensor:
        kernel, stride, before, dilation = window[1:]
        even = 2 * before == dilation * (kernel - 1) or kernel == stride
        if layer.groups > 1 or not even:
            return super()._conv(x, layer, window)  # spconv has no groups, and pads evenly
        pairs, counts, num, order = x.mask.cached(
            ('spconv', x.mask.edge(x.size), *window[1:]), lambda: self._pairs(x, window)
        )
        convolve = self.functional.indice_subm_conv if order is None else self.functional.indice_conv
        weight = layer.weight.permute(0, 2, 3, 1).contiguous()  # (K, kernel, kernel, C): spconv's order since 2.2
        rows = convolve(x.data, weight, pairs, counts, num, self._algo)
        rows = rows if order is None else rows[order]
        return rows if layer.bias is None else rows + layer.bias

    @property
    def _algo(self) -> object:
        return self.ops.ConvAlgo.Native  # the only one on a CPU, and for the 49 sites of a 7x7 kernel also on CUDA

    def _pairs(self, x: SparseFeatures, window: Window) -> tuple:
        """Pairs of input and output rows of a convolution, their number, that of output rows, and which are ours.

        A convolution with a stride puts out every site that it reaches, in no order. All visible ones are among them.
        """
        size, subm = window.size, window.stride == 1
        found, pairs, counts = self.ops.get_indice_pairs(
            _coordinates(x.mask, x.size), x.mask.batch_size, list(x.size), self._algo,
            *([arg, arg] for arg in window[1:]), [0, 0], subm,
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


@functools.cache  # every batch builds an engine, and to look for wheels takes 50 ms
def load_spconv() -> tuple:
    """Modules ``spconv.pytorch.ops`` and ``spconv.pytorch.functional``, safe on a CPU.

    Raises:
        ImportError: spconv is not installed, or more than one of its wheels is; both say what to do.
    """
    check_wheels([dist.metadata['Name'] or '' for dist in distributions()])
    if find_spec('spconv') is None:
        raise ImportError(f"backend='spconv' needs spconv: {INSTALL}; or use backend='rows'")
    try:
        from spconv.pytorch import functional, ops
    except Exception as error:  # a library that it cannot load, another numpy, a kernel that does not compile
        raise ImportError(
            f'spconv is installed and broken ({type(error).__name__}: {error}). Install the wheel for this Python and '
            f"CUDA, {INSTALL}, or use backend='rows'"
        ) from error
    if not hasattr(ops.indice_conv, 'one_thread'):
        ops.indice_conv = one_thread(ops.indice_conv)
        ops.indice_conv_backward = one_thread(ops.indice_conv_backward)
        ops.get_current_stream = no_stream_without_cuda(ops.get_current_stream)
    return ops, functional


def check_wheels(installed: list[str]) -> None:
    """See that at most one distribution brings the package ``spconv``.

    Args:
        installed: Names of the distributions.

    Raises:
        ImportError: Several do; each has overwritten files of the one before.
    """
    names = {re.sub(r'[-_.]+', '-', name).lower() for name in installed}
    wheels = sorted(name for name in names if re.fullmatch(r'spconv(-cu\d+)?', name))
    if len(wheels) > 1:
        raise ImportError(
            f'{" and ".join(wheels)} are installed and share one folder: pip uninstall -y {" ".join(wheels)}, then '
            f'{INSTALL}'
        )


def one_thread(function: Callable) -> Callable:
    """Let a function of spconv run on one thread if the features, its first argument, are on a CPU."""

    @functools.wraps(function)
    def guarded(features: Tensor, *args, **kwargs):
        threads = torch.get_num_threads()
        if features.is_cuda or threads == 1:
            return function(features, *args, **kwargs)
        torch.set_num_threads(1)
        try:
            return function(features, *args, **kwargs)
        finally:
            torch.set_num_threads(threads)

    guarded.one_thread = True
    return guarded


def no_stream_without_cuda(get_current_stream: Callable[[], int]) -> Callable[[], int]:
    """Let spconv's question for the CUDA stream give 0, which it takes for none, where there is no CUDA."""

    @functools.wraps(get_current_stream)
    def stream() -> int:
        return get_current_stream() if torch.cuda.is_available() else 0

    return stream
