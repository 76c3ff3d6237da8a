"""Encoder of O²DETR (arXiv 2106.03146): depthwise separable convolution in the place of attention.

``tokens + positions → maps of the levels → depthwise k x k → ReLU → pointwise → + tokens → norm``, FFN.

The abstract says that attention is replaced by depthwise separable convolution; nothing else about the layer is public.
Kernel size, order, activation, the exchange between levels, and the treatment of padding are our decisions.

Levels stay apart, so that only the decoder mixes them. An exchange can be switched on, because the deformable attention
that is replaced mixes levels: it adds to a level its two neighbors, the finer one max-pooled and the coarser one
repeated. It did worse in our small experiment (see DETAILS.md).

Shapes: ``B`` images, ``N = sum(H_l W_l)`` tokens of ``L`` levels, ``D`` channels. Maps are ``(B, D, H_l, W_l)`` in
channels-last memory, so that tokens are seen as maps without a copy.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmdet.models.layers import DetrTransformerEncoder
from mmdet.utils import OptConfigType
from mmengine.model import BaseModule, ModuleList, kaiming_init, xavier_init
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CROSS_LEVEL = ('adjacent', 'none')


class DepthwiseSeparableMixer(BaseModule):
    """What stands in the place of self-attention: ``k² D + D²`` multiply-adds a token, whatever the number of tokens.

    Args:
        embed_dims: ``D``.
        kernel_size: ``k``, odd. 3 is the smallest that mixes at all.
        cross_level: ``'none'`` keeps the levels apart, which is what the abstract says and did better in our small
            experiment; ``'adjacent'`` adds the neighboring levels.
        act_cfg: Activation between the two convolutions; None for none.
        dropout: Of the output.

    Raises:
        ValueError: ``cross_level`` is unknown, or the kernel is even.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        kernel_size: int = 3,
        cross_level: str = 'none',
        act_cfg: OptConfigType = dict(type='ReLU'),  # noqa: B006  # the host's way to write a default config
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if cross_level not in CROSS_LEVEL:
            raise ValueError(f'cross_level must be one of {CROSS_LEVEL}, not {cross_level!r}')
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, not {kernel_size}: an even kernel shifts the map')
        self.embed_dims = embed_dims
        self.cross_level = cross_level
        self.depthwise = nn.Conv2d(embed_dims, embed_dims, kernel_size, padding=kernel_size // 2, groups=embed_dims)
        self.activation = build_activation_layer(act_cfg) if act_cfg else nn.Identity()
        # A 1 x 1 convolution, written for tokens.
        self.pointwise = nn.Linear(embed_dims, embed_dims)
        self.dropout = nn.Dropout(dropout)

    def init_weights(self) -> None:
        """Initialize as convolutions.

        The Xavier rule that DETRs apply to their encoder counts ``D k²`` outputs for a depthwise kernel and makes it
        about ``sqrt(D)`` times too small.
        """
        kaiming_init(self.depthwise, mode='fan_in')
        xavier_init(self.pointwise, distribution='uniform')

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        spatial_shapes: Tensor | Sequence[Sequence[int]] = (),
    ) -> Tensor:
        """Mix tokens with their neighbors.

        Args:
            query: ``(B, N, D)``, one level after another, row by row.
            query_pos: ``(B, N, D)`` or None.
            key_padding_mask: ``(B, N)``, True at padding; None if there is none.
            spatial_shapes: ``(L, 2)``, height and width of the levels.

        Returns:
            ``(B, N, D)``, zero at padding; the residual connection is the layer's.
        """
        shapes = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
        tokens = query if query_pos is None else query + query_pos
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.bool()[..., None]
            tokens = tokens.masked_fill(key_padding_mask, 0)
        maps = as_maps(tokens, shapes)
        if self.cross_level == 'adjacent':
            masks = None if key_padding_mask is None else as_maps(key_padding_mask, shapes)
            maps = exchange(maps, masks)
        mixed = torch.cat([self.depthwise(x).permute(0, 2, 3, 1).flatten(1, 2) for x in maps], dim=1)
        mixed = self.dropout(self.pointwise(self.activation(mixed)))
        return mixed if key_padding_mask is None else mixed.masked_fill(key_padding_mask, 0)


def as_maps(tokens: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """See ``(B, N, D)`` as the maps ``(B, D, H_l, W_l)``, without a copy."""
    levels = tokens.split([h * w for h, w in shapes], dim=1)
    return [x.unflatten(1, (h, w)).permute(0, 3, 1, 2) for x, (h, w) in zip(levels, shapes, strict=True)]


def exchange(maps: list[Tensor], masks: list[Tensor] | None = None) -> list[Tensor]:
    """Add to each level its finer neighbor, max-pooled, and its coarser one, repeated.

    Args:
        maps: ``L`` maps ``(B, D, H_l, W_l)``, from fine to coarse, zero at padding.
        masks: As many ``(B, 1, H_l, W_l)``, True at padding, or None.

    Returns:
        New maps of the same shapes, zero at padding.
    """
    mixed = list(maps)
    for coarse, fine in enumerate(maps[:-1], start=1):
        if masks is None:
            pooled = pool_to(fine, maps[coarse].shape[-2:])
        else:
            # Padding must not win against negative numbers: an image has the same result alone and in a larger batch.
            lowest = torch.finfo(fine.dtype).min
            pooled = pool_to(fine.masked_fill(masks[coarse - 1], lowest), maps[coarse].shape[-2:])
            pooled = pooled.masked_fill(pooled == lowest, 0)
        mixed[coarse] = mixed[coarse] + pooled
    for fine, (target, coarse) in enumerate(pairwise(maps)):
        mixed[fine] = mixed[fine] + F.interpolate(coarse, size=target.shape[-2:], mode='nearest')
    if masks is not None:
        mixed = [x.masked_fill(mask, 0) for x, mask in zip(mixed, masks, strict=True)]
    return mixed


def pool_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Max-pool a map to half its size, rounded up, as the levels of a backbone have it; adaptively to any other size.

    The plain pooling can be exported to ONNX and its cells lie under those of a convolution of stride 2.

    Args:
        x: ``(B, D, H, W)``.
        size: Height and width wanted.

    Returns:
        ``(B, D, *size)``.
    """
    if tuple(size) == tuple(-(-side // 2) for side in x.shape[-2:]):
        return F.max_pool2d(x, kernel_size=2, ceil_mode=True)
    return F.adaptive_max_pool2d(x, size)


class DWSepEncoderLayer(BaseModule):
    """Post-norm encoder layer of Deformable DETR with :class:`DepthwiseSeparableMixer` for attention.

    Args:
        mixer_cfg: Arguments of :class:`DepthwiseSeparableMixer`.
        ffn_cfg: Arguments of mmcv's ``FFN``.
        norm_cfg: Normalization layers.
        init_cfg: Initialization config.

    Raises:
        ValueError: Mixer and FFN differ in width.
    """

    def __init__(
        self,
        mixer_cfg: dict,
        ffn_cfg: dict,
        norm_cfg: dict = dict(type='LN'),  # noqa: B006
        init_cfg: OptConfigType = None,
    ) -> None:
        super().__init__(init_cfg)
        self.mixer = DepthwiseSeparableMixer(**mixer_cfg)
        self.embed_dims = self.mixer.embed_dims
        self.ffn = FFN(**ffn_cfg)
        if self.ffn.embed_dims != self.embed_dims:
            raise ValueError(f'mixer_cfg has embed_dims {self.embed_dims}, ffn_cfg {self.ffn.embed_dims}')
        self.norms = ModuleList([build_norm_layer(norm_cfg, self.embed_dims)[1] for _ in range(2)])

    def forward(self, query: Tensor, query_pos: Tensor, key_padding_mask: Tensor, spatial_shapes: Tensor) -> Tensor:
        """Mix, then transform each token.

        Args:
            query: ``(B, N, D)``.
            query_pos: ``(B, N, D)``.
            key_padding_mask: ``(B, N)``, True at padding, or None.
            spatial_shapes: ``(L, 2)``.

        Returns:
            ``(B, N, D)``.
        """
        query = self.norms[0](query + self.mixer(query, query_pos, key_padding_mask, spatial_shapes))
        return self.norms[1](self.ffn(query))


class DWSepEncoder(DetrTransformerEncoder):
    """Encoder of depthwise separable layers, called as ``DeformableDetrTransformerEncoder``.

    Args:
        num_layers: 6 in DETRs; the paper's is not known.
        layer_cfg: Arguments of :class:`DWSepEncoderLayer`.
        num_cp: The first this many layers keep nothing for the backward pass and are computed again there.
        init_cfg: Initialization config.
    """

    def _init_layers(self) -> None:
        self.layers = ModuleList([DWSepEncoderLayer(**self.layer_cfg) for _ in range(self.num_layers)])
        self.embed_dims = self.layers[0].embed_dims

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        key_padding_mask: Tensor | None,
        spatial_shapes: Tensor,
        level_start_index: Tensor | None = None,
        valid_ratios: Tensor | None = None,
    ) -> Tensor:
        """Encode.

        Args:
            query: ``(B, N, D)``.
            query_pos: ``(B, N, D)``.
            key_padding_mask: ``(B, N)``, True at padding; None when all images fill the batch.
            spatial_shapes: ``(L, 2)``, height and width of the levels.
            level_start_index: Not used.
            valid_ratios: Not used.

        Returns:
            ``(B, N, D)`` memory.
        """
        shapes = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
        for index, layer in enumerate(self.layers):
            if self.training and index < self.num_cp:
                query = checkpoint(layer, query, query_pos, key_padding_mask, shapes, use_reentrant=False)
            else:
                query = layer(query, query_pos, key_padding_mask, shapes)
        return query


class NoEncoder(BaseModule):
    """The tokens with their positions: the control without an encoder.

    Args:
        embed_dims: ``D``.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.embed_dims = embed_dims

    def forward(self, query: Tensor, query_pos: Tensor, **kwargs) -> Tensor:
        """Return the sum, ``(B, N, D)``."""
        return query + query_pos
