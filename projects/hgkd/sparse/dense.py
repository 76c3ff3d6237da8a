"""Engine on whole maps, masked after each layer: the way of SparK's authors, with mmpretrain's layers as the pattern.

Reference for the other engines; any device, AMP. Legend as in ``engine.py``.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..masks import ActiveMask
from .engine import Engine, SparseFeatures, norm_rows, output_size


class DenseEngine(Engine):
    """Layers on ``(B, C, H, W)`` that is 0 at hidden sites."""

    name = 'dense'

    def _start(self, images: Tensor, mask: ActiveMask) -> SparseFeatures:
        size = tuple(images.shape[2:])
        # Not a product: what is hidden may be inf or NaN.
        return SparseFeatures(images.masked_fill(~mask.sites(size), 0), mask, size, self)

    def to_dense(self, x: SparseFeatures) -> Tensor:
        """Return the map ``(B, C, H, W)``."""
        return x.data

    def conv(self, x: SparseFeatures, layer: nn.Conv2d) -> SparseFeatures:
        """Convolve the whole map, then hide."""
        size = output_size(x.size, layer)
        out = F.conv2d(x.data, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation)
        return x.with_data(out.mul_(x.mask.sites(size)), size)

    def norm(self, x: SparseFeatures, norm: Callable[[Tensor], Tensor]) -> SparseFeatures:
        """Normalize the visible sites and put them back."""
        visible = x.mask.raster(x.size)
        rows = norm_rows(x.data.permute(0, 2, 3, 1).flatten(0, 2)[visible], norm)
        out = rows.new_zeros(x.data.size(0) * x.size[0] * x.size[1], rows.size(1))
        out[visible] = rows  # index_copy would keep the rows for the backward pass
        return x.with_data(out.view(-1, *x.size, rows.size(1)).permute(0, 3, 1, 2))

    def max_pool(self, x: SparseFeatures, layer: nn.MaxPool2d) -> SparseFeatures:
        """Pool the whole map, then hide."""
        size = output_size(x.size, layer)
        out = F.max_pool2d(x.data, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return x.with_data(out.mul_(x.mask.sites(size)), size)

    def scale_images(self, x: SparseFeatures, factors: Tensor) -> SparseFeatures:
        """Multiply each image by its factor."""
        return x.with_data(x.data * factors.view(-1, 1, 1, 1))
