"""Engine on whole maps, masked after each layer: the way of SparK's authors, with mmpretrain's layers as the pattern.

Reference for the other engines; any device, AMP. Legend as in ``engine.py``.
"""

from collections.abc import Callable

from torch import Tensor, nn

from ..masks import ActiveMask
from .engine import Engine, SparseFeatures, apply_to_rows, window_of


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

    def conv(self, x: SparseFeatures, layer: nn.Conv2d, forward: Callable[[Tensor], Tensor]) -> SparseFeatures:
        """Convolve the whole map, then hide."""
        return self._hide(x, forward(x.data), window_of(x.size, layer).size)

    def each_site(self, x: SparseFeatures, forward: Callable[[Tensor], Tensor]) -> SparseFeatures:
        """Apply the layer to the visible sites and put them back."""
        visible = x.mask.raster(x.size)
        rows = apply_to_rows(x, x.data.permute(0, 2, 3, 1).flatten(0, 2)[visible], forward)
        out = rows.new_zeros(x.data.size(0) * x.size[0] * x.size[1], rows.size(1))
        out[visible] = rows  # index_copy would keep the rows for the backward pass
        return x.with_data(out.view(-1, *x.size, rows.size(1)).permute(0, 3, 1, 2))

    def pool(
        self, x: SparseFeatures, layer: nn.MaxPool2d | nn.AvgPool2d, forward: Callable[[Tensor], Tensor]
    ) -> SparseFeatures:
        """Pool the whole map, then hide."""
        return self._hide(x, forward(x.data), window_of(x.size, layer).size)

    def mean(self, x: SparseFeatures) -> Tensor:
        """Sum over the map, of which hidden sites are 0, by the number of visible ones."""
        return x.data.sum(dim=(2, 3)) / x.mask.count_sites(x.size)

    def scale_images(self, x: SparseFeatures, factors: Tensor) -> SparseFeatures:
        """Multiply each image by its factors."""
        return x.with_data(x.data * factors[:, :, None, None])

    @staticmethod
    def _hide(x: SparseFeatures, out: Tensor, size: tuple[int, int]) -> SparseFeatures:
        return x.with_data(out.mul_(x.mask.sites(size)), size)
