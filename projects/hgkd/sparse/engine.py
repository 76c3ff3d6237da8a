"""What a sparse layer asks of an engine, and the features that carry engine and mask through an ordinary network.

A submanifold layer has outputs at visible sites only (SparK, sec. 3.2). Three engines compute the same: ``dense`` on
whole maps that are masked after each layer, as SparK's authors do, ``rows`` on the visible sites only, ``spconv`` like
``rows`` with that library's convolutions. Layers call the engine of the features they get; parameters keep torch's
layout, so that a checkpoint does not know the engine.

Legend as in ``masks.py``; ``C, K`` channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..masks import ActiveMask


@dataclass
class SparseFeatures:
    """Features of one level. The host's blocks pass it from layer to layer as they would a tensor.

    Args:
        data: In the engine's own layout: ``(B, C, H, W)`` with 0 at hidden sites, or ``(N, C)``.
        mask: Visible cells.
        size: ``(H, W)`` of the level.
        engine: Computes the layers.
    """

    data: Tensor
    mask: ActiveMask
    size: tuple[int, int]
    engine: 'Engine'

    def with_data(self, data: Tensor, size: tuple[int, int] | None = None) -> 'SparseFeatures':
        """Other features under the same mask; of the same level unless ``size`` names another."""
        return replace(self, data=data, size=size or self.size)

    def dense(self) -> Tensor:
        """Map ``(B, C, H, W)``, 0 at hidden sites."""
        return self.engine.to_dense(self)

    def __iadd__(self, other: 'SparseFeatures') -> 'SparseFeatures':
        """Shortcut of a residual block; sites are in the same order on both sides."""
        self.data += other.data
        return self


class Engine(ABC):
    """Layers on ``SparseFeatures``. An engine keeps no state: what a batch needs is in its mask.

    All methods take and give ``SparseFeatures`` unless they say otherwise, and leave their input alone.
    """

    name: str

    def start(self, images: Tensor, mask: ActiveMask) -> SparseFeatures:
        """Features of the visible pixels: hidden ones are lost here, before the first convolution can see them.

        Args:
            images: ``(B, C, H, W)``.
            mask: Visible cells.

        Raises:
            TypeError: float16 on a CPU, or a type that the engine cannot compute.
        """
        dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else images.dtype
        if images.device.type == 'cpu' and torch.float16 in (dtype, images.dtype):
            raise TypeError(
                f'the {self.name} engine got float16 on a CPU, where its sums overflow: use float32, or bfloat16 with '
                "AmpOptimWrapper(dtype='bfloat16')"
            )
        return self._start(images, mask)

    @abstractmethod
    def _start(self, images: Tensor, mask: ActiveMask) -> SparseFeatures:
        """``start`` without the check."""

    @abstractmethod
    def to_dense(self, x: SparseFeatures) -> Tensor:
        """Map ``(B, C, H, W)``, 0 at hidden sites."""

    @abstractmethod
    def conv(self, x: SparseFeatures, layer: nn.Conv2d) -> SparseFeatures:
        """Submanifold convolution: sums over visible inputs, at visible outputs."""

    @abstractmethod
    def norm(self, x: SparseFeatures, norm: Callable[[Tensor], Tensor]) -> SparseFeatures:
        """Batch norm over visible sites.

        Args:
            x: Features.
            norm: The layer's forward, on a picture.
        """

    @abstractmethod
    def max_pool(self, x: SparseFeatures, layer: nn.MaxPool2d) -> SparseFeatures:
        """Max-pool of features that are not negative (after ReLU), in which a hidden site counts as 0."""

    @abstractmethod
    def scale_images(self, x: SparseFeatures, factors: Tensor) -> SparseFeatures:
        """Multiply the features of each image by its factor, ``(B,)``."""


def norm_rows(rows: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
    """Batch norm of rows ``(N, C)``, shown to the layer as one picture ``(1, C, N, 1)`` in channels-last strides."""
    picture = rows.reshape(1, len(rows), 1, -1).permute(0, 3, 1, 2)
    return norm(picture).permute(0, 2, 3, 1).flatten(0, 2)


def output_size(size: tuple[int, int], layer: nn.Conv2d | nn.MaxPool2d) -> tuple[int, int]:
    """Size ``(H, W)`` of a layer's output.

    Raises:
        ValueError: The layer would not map cells onto cells: its kernel, stride and padding are not those of a layer
            that keeps the size or divides it by its stride.
    """
    kernel, stride, padding, dilation = (side(layer, name) for name in ('kernel_size', 'stride', 'padding', 'dilation'))
    # Output y is at input s y. Else a site of the output would mix cells, and the mask of the output be wrong.
    if 2 * padding != dilation * (kernel - 1) or any(length % stride for length in size):
        raise ValueError(
            f'{layer} on {size[0]} x {size[1]} sites cannot be sparse: it needs an odd kernel, '
            'padding = dilation * (kernel - 1) / 2, and sides that its stride divides'
        )
    return size[0] // stride, size[1] // stride


def side(layer: nn.Conv2d | nn.MaxPool2d, name: str) -> int:
    """Value of a layer's square argument, ``kernel_size`` for instance.

    Raises:
        ValueError: It differs between the two sides.
    """
    value = getattr(layer, name)
    values = {value} if isinstance(value, int) else set(value)
    if len(values) != 1:
        raise ValueError(f'{layer} cannot be sparse: {name} {value} is not square')
    return values.pop()


def compute_dtype(x: Tensor) -> torch.dtype:
    """Type that a convolution of ``x`` computes in: autocast's where that is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
