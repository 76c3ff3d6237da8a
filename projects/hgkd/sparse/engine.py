"""What a sparse layer asks of an engine, and the features that carry engine and mask through an ordinary network.

A submanifold layer has outputs at visible sites only (SparK, sec. 3.2). Three engines compute the same: ``dense`` on
whole maps that are masked after each layer, as SparK's authors do, ``rows`` on the visible sites only, ``spconv`` like
``rows`` with that library's convolutions. Layers call the engine of the features they get; parameters keep torch's
layout, so that a checkpoint does not know the engine.

Legend as in ``masks.py``; ``C, K`` channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..masks import ActiveMask

SAME_PADDING = ('Conv2dAdaptivePadding', 'Conv2dSame')  # mmcv's and timm's: TensorFlow's padding, which is not even


@dataclass
class SparseFeatures:
    """Features of one level. The host's blocks pass it from layer to layer as they would a tensor ``(B, C, H, W)``.

    What blocks do with a tensor between layers is defined here as far as it stays within sites or images: sums,
    products, means over an image, moving the channels to the end. Anything else that torch does is an error.

    Args:
        data: In the engine's own layout: ``(B, C, H, W)`` with 0 at hidden sites, or ``(N, C)``.
        mask: Visible cells.
        size: ``(H, W)`` of the level.
        engine: Computes the layers.
        channels_last: Whether the block has moved the channels to the end (ConvNeXt); layers of sites then work on the
            last dimension. The data stay as they are.
    """

    data: Tensor
    mask: ActiveMask
    size: tuple[int, int]
    engine: 'Engine'
    channels_last: bool = False

    def with_data(self, data: Tensor, size: tuple[int, int] | None = None) -> 'SparseFeatures':
        """Other features under the same mask; of the same level unless ``size`` names another."""
        return replace(self, data=data, size=size or self.size)

    def dense(self) -> Tensor:
        """Map ``(B, C, H, W)``, 0 at hidden sites."""
        return self.engine.to_dense(self)

    def __add__(self, other: 'SparseFeatures | int') -> 'SparseFeatures':
        """Sum of branches; sites are in the same order on both sides. The number 0 stands for a missing branch."""
        if isinstance(other, SparseFeatures):
            return self.with_data(self.data + other.data)
        return self if isinstance(other, int) and other == 0 else NotImplemented

    __radd__ = __add__

    def __iadd__(self, other: 'SparseFeatures') -> 'SparseFeatures':
        """Shortcut of a residual block."""
        self.data += other.data
        return self

    def __mul__(self, other: 'SparseFeatures | Tensor | float') -> 'SparseFeatures':
        """Product with features, with a number, or with factors of channels ``(1, C, 1, 1)``, of images too ``(B, …)``.

        Raises:
            ValueError: The factors are of another shape.
        """
        if isinstance(other, SparseFeatures):
            return self.with_data(self.data * other.data)
        if not isinstance(other, Tensor):
            return self.with_data(self.data * other)
        factors = other.flatten(1) if other.dim() == 4 else other.reshape(1, -1)
        if len(factors) not in (1, self.mask.batch_size) or (other.dim() == 4 and other.shape[2:].numel() != 1):
            raise ValueError(f'features of visible sites times a tensor {tuple(other.shape)}: not one for each channel')
        return self.engine.scale_images(self, factors.expand(self.mask.batch_size, -1))

    __rmul__ = mul = __mul__

    def dim(self) -> int:
        """Refuse a norm for tensors, which asks for this first.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            'a norm for tensors got features of visible sites: it took the place of a sparse one, as `sync_bn` of the '
            "runner makes it. Leave sync_bn out and set norm_cfg=dict(type='SyncBN') and "
            "enc_dec_norm_cfg=dict(type='SyncBN')"
        )

    def permute(self, *order: int) -> 'SparseFeatures':
        """Move the channels to the end, or back."""
        if order not in ((0, 2, 3, 1), (0, 3, 1, 2)):
            raise ValueError(f'features of visible sites cannot be permuted to {order}')
        return replace(self, channels_last=order == (0, 2, 3, 1))

    def mean(self, dim: Sequence[int], keepdim: bool = False) -> Tensor:
        """Mean over the visible sites of each image: ``(B, C, 1, 1)``, or ``(B, C)`` without ``keepdim``."""
        if sorted(d % 4 for d in dim) != [2, 3]:
            raise ValueError(f'features of visible sites have a mean over dimensions 2 and 3, not {dim}')
        mean = self.engine.mean(self)
        return mean[:, :, None, None] if keepdim else mean

    @classmethod
    def __torch_function__(cls, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None):
        """Say which function of torch a network calls on features that it does not know."""
        raise TypeError(f'{getattr(function, "__name__", function)} has no form for visible sites only')


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
    def conv(self, x: SparseFeatures, layer: nn.Conv2d, forward: Callable[[Tensor], Tensor]) -> SparseFeatures:
        """Submanifold convolution: sums over visible inputs, at visible outputs.

        Args:
            x: Features.
            layer: The convolution.
            forward: Its own on a map; an engine that has none computes from ``layer.weight``.
        """

    @abstractmethod
    def each_site(self, x: SparseFeatures, forward: Callable[[Tensor], Tensor]) -> SparseFeatures:
        """Layer that sees a site at a time, or all visible sites as one picture: norms, linear layers.

        Args:
            x: Features.
            forward: The layer's own, on a picture ``(1, C, N, 1)``, or ``(1, N, 1, C)`` where channels are last.
        """

    @abstractmethod
    def pool(
        self, x: SparseFeatures, layer: nn.MaxPool2d | nn.AvgPool2d, forward: Callable[[Tensor], Tensor]
    ) -> SparseFeatures:
        """Pool; a hidden site counts as 0, so a maximum is right where features are not negative (after ReLU)."""

    @abstractmethod
    def mean(self, x: SparseFeatures) -> Tensor:
        """Mean over the visible sites of each image, ``(B, C)``."""

    @abstractmethod
    def scale_images(self, x: SparseFeatures, factors: Tensor) -> SparseFeatures:
        """Multiply the features of each image by its factor, ``(B, 1)`` or ``(B, C)``."""


def apply_to_rows(x: SparseFeatures, rows: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a layer to rows ``(N, C)`` as a picture ``(1, C, N, 1)``, or ``(1, N, 1, C)`` where channels are last."""
    if x.channels_last:
        return forward(rows[None, :, None]).flatten(0, 2)
    picture = rows.reshape(1, len(rows), 1, -1).permute(0, 3, 1, 2)
    return forward(picture).permute(0, 2, 3, 1).flatten(0, 2)


class Window(NamedTuple):
    """How a convolution or pool reaches from a level to the next: output ``y`` sees inputs from ``stride y - before``.

    Attributes:
        size: ``(H, W)`` of the output.
        kernel: Side of the kernel.
        stride: Of the layer.
        before: Sites of the window before the one that lies at the output's place.
        dilation: Of the layer.
    """

    size: tuple[int, int]
    kernel: int
    stride: int
    before: int
    dilation: int


def window_of(size: tuple[int, int], layer: nn.Module) -> Window:
    """Return the window of a layer on a level of size ``(H, W)``.

    Raises:
        ValueError: The layer would not map cells onto cells: its output is not as large as the input over its stride.
    """
    kernel, stride, dilation = (side(layer, name) for name in ('kernel_size', 'stride', 'dilation'))
    reach = dilation * (kernel - 1) + 1
    if layer.padding == 'same' or any(kind.__name__ in SAME_PADDING for kind in type(layer).__mro__):
        before, after = max(reach - stride, 0) // 2, -(-max(reach - stride, 0) // 2)
    else:
        before = after = side(layer, 'padding')
    # Else a site of the output would not lie in the cell of its inputs, and the mask of the output be wrong.
    if any(length % stride or (length + before + after - reach) // stride + 1 != length // stride for length in size):
        raise ValueError(
            f'{layer} on {size[0]} x {size[1]} sites cannot be sparse: its output must be as large as the input over '
            'its stride, and its stride must divide the sides'
        )
    return Window((size[0] // stride, size[1] // stride), kernel, stride, before, dilation)


def side(layer: nn.Module, name: str) -> int:
    """Value of a layer's square argument, ``kernel_size`` for instance; 1 where it has none (an average's dilation).

    Raises:
        ValueError: It differs between the two sides.
    """
    value = getattr(layer, name, 1)
    values = {value} if isinstance(value, int) else set(value)
    if len(values) != 1:
        raise ValueError(f'{layer} cannot be sparse: {name} {value} is not square')
    return values.pop()


def compute_dtype(x: Tensor) -> torch.dtype:
    """Type that a convolution of ``x`` computes in: autocast's where that is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
