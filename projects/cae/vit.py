"""Encoder of CAE and CAE v2: a ViT that sees only the visible patches.

Sec. 3.1 of arXiv 2202.03026 and the authors' released code. Sizes Ti and S have 12 heads, as in that code, and not
DeiT's 3 and 6: no weight shape depends on the number of heads, so the wrong one loads silently.

Shapes: ``B`` images, ``N`` patches of a grid ``(h, w)``, ``V`` visible ones, ``D`` channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from mmengine.model import ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.backbones import BEiTViT
from mmpretrain.models.selfsup import CAEPretrainViT
from mmpretrain.models.utils import resize_pos_embed, to_2tuple
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from .layers import NORM_CFG, CAEEncoderLayer, drop_path_rates
from .tokens import Places, sincos_table, split_places, tokens_at

# Authors' code: convolution and tokens from a normal distribution of 0.02 cut at one sigma, Xavier for each linear.
INIT_CFG = [
    dict(type='Constant', val=1, layer=['LayerNorm']),
    dict(type='TruncNormal', std=0.02, a=-0.02, b=0.02, layer=['Conv2d']),
    dict(type='Xavier', distribution='uniform', layer=['Linear']),
]


def vit_sizes(dims: int, layers: int, heads: int) -> dict[str, int]:
    """Return an ``arch`` dict with an FFN of four times the width."""
    return dict(embed_dims=dims, num_layers=layers, num_heads=heads, feedforward_channels=4 * dims)


@MODELS.register_module()
class CAEViT(CAEPretrainViT):
    """ViT of CAE for pretraining, and with ``mask=None`` a plain backbone for whatever comes after.

    Differs from the host's class in: the authors' Ti and S, any grid, ``mask`` may be left out, one DropPath per
    branch, fused attention, ``layer_scale_init_value=None`` (no LayerScale), relative position tables that start at
    zero, ``with_cp``.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``, or a dict with ``embed_dims``, ``num_layers``,
            ``num_heads`` and ``feedforward_channels``.
        img_size: Height and width of the images, or one number for both; a multiple of the patch size.
        patch_size: Height and width of a patch, or one number.
        layer_scale_init_value: 0.1 for Ti, S and B, 1e-5 for L (authors' code); None: no LayerScale.
        drop_path_rate: Of the last layer; grows linearly from 0.
        rescale_init: Divide the output weights of both branches of layer ``i`` by ``sqrt(2 i)``, as BEiT does. The
            authors' script for L asks for it (``--fix_init_weight``).
        with_cp: Trade time for memory: compute activations again in the backward pass.
        out_type: What :meth:`forward` returns without a mask: ``'raw'`` (B, 1 + N, D), ``'cls_token'`` (B, D),
            ``'featmap'`` (B, D, h, w) or ``'avg_featmap'`` (B, D), which adds a second normalization ``ln2``.
        frozen_stages: Number of layers that are frozen, with the patch embedding; -1: none.
        layer_cfgs: More arguments of :class:`CAEEncoderLayer`; one dict, or one per layer.
        **kwargs: The host's: ``in_channels``, ``out_indices``, ``drop_rate``, ``bias``, ``norm_cfg``, ``final_norm``,
            ``use_rel_pos_bias``, ``use_shared_rel_pos_bias``, ``interpolate_mode``.

    Raises:
        ValueError: The patches do not divide the image.
    """

    arch_zoo = {
        **dict.fromkeys(['ti', 'tiny'], vit_sizes(192, 12, heads=12)),
        **dict.fromkeys(['s', 'small'], vit_sizes(384, 12, heads=12)),
        **dict.fromkeys(['b', 'base'], vit_sizes(768, 12, heads=12)),
        **dict.fromkeys(['l', 'large'], vit_sizes(1024, 24, heads=16)),
    }

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        *,
        layer_scale_init_value: float | None = 0.1,
        drop_path_rate: float = 0.0,
        rescale_init: bool = False,
        with_cp: bool = False,
        out_type: str = 'raw',
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        layer_cfgs: dict | Sequence[dict] | None = None,
        init_cfg: dict | list[dict] | None = INIT_CFG,
        **kwargs,
    ) -> None:
        if isinstance(arch, str):
            if arch.lower() not in self.arch_zoo:
                raise ValueError(f'unknown arch {arch!r}; one of {sorted(self.arch_zoo)}, or a dict')
            arch = self.arch_zoo[arch.lower()]
        img_size, patch_size = to_2tuple(img_size), to_2tuple(patch_size)
        if any(side % patch for side, patch in zip(img_size, patch_size, strict=True)):
            raise ValueError(f'patches of {patch_size} do not divide an image of {img_size}')
        depth = arch['num_layers']
        # The host has no argument for the class of its layers: let it build none, and add ours.
        super().__init__(
            arch={**arch, 'num_layers': 0},
            img_size=img_size,
            patch_size=patch_size,
            out_type=out_type,
            out_indices=0,
            layer_scale_init_value=layer_scale_init_value,
            init_cfg=init_cfg,
            **kwargs,
        )
        self.arch_settings, self.num_layers = arch, depth
        self.out_indices = self._resolve(out_indices)
        self.rescale_init = rescale_init
        layer_cfgs = layer_cfgs if isinstance(layer_cfgs, Sequence) else [layer_cfgs or {}] * depth
        self.layers = ModuleList(
            CAEEncoderLayer(
                **{
                    'embed_dims': self.embed_dims,
                    'num_heads': arch['num_heads'],
                    'feedforward_channels': arch['feedforward_channels'],
                    'layer_scale_init_value': layer_scale_init_value,
                    'window_size': self.patch_resolution,
                    'use_rel_pos_bias': self.use_rel_pos_bias,
                    'drop_rate': kwargs.get('drop_rate', 0.0),
                    'drop_path_rate': rate,
                    'bias': kwargs.get('bias', 'qv_bias'),
                    'norm_cfg': kwargs.get('norm_cfg', NORM_CFG),
                    'with_cp': with_cp,
                    **cfg,
                }
            )
            for rate, cfg in zip(drop_path_rates(drop_path_rate, depth), layer_cfgs, strict=True)
        )
        self.pos_embed.data.copy_(sincos_table(self.patch_resolution, self.embed_dims))
        self.frozen_stages = frozen_stages
        if frozen_stages > 0:
            self._freeze_stages()

    def _resolve(self, out_indices: int | Sequence[int]) -> list[int]:
        """Count negative indices from the end; all must name a layer."""
        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        if any(not -self.num_layers <= index < self.num_layers for index in indices):
            raise ValueError(f'out_indices={indices} of a model with {self.num_layers} layers')
        return [index % self.num_layers for index in indices]

    def init_weights(self) -> None:
        """Initialize as the authors do, or load what ``init_cfg`` names."""
        # Not the direct parent's: it makes the position table of a square grid.
        super(CAEPretrainViT, self).init_weights()
        if isinstance(self.init_cfg, dict) and self.init_cfg['type'] == 'Pretrained':
            return
        self.pos_embed.data.copy_(sincos_table(self.patch_resolution, self.embed_dims))
        trunc_normal_(self.cls_token, std=0.02, a=-0.02, b=0.02)
        if self.rescale_init:
            rescale(layer.attn.proj.weight for layer in self.layers)
            rescale(layer.ffn.layers[1].weight for layer in self.layers)

    def forward(self, x: Tensor, mask: Tensor | Places | None = None) -> Tensor | tuple[Tensor, ...]:
        """Encode the visible patches, or without a mask the whole image.

        Args:
            x: ``(B, 3, H, W)`` normalized images.
            mask: ``(B, N)``, True where a patch is hidden, the same number in each row; or the places themselves.
                What lies under the mask never enters the network.

        Returns:
            With a mask ``(B, 1 + V, D)`` after the last normalization: CLS, then the visible patches in raster
            order. Without, the tuple of the host's backbones: one entry per ``out_indices``, of ``out_type``.

        Raises:
            ValueError: The mask does not fit the grid, or see :func:`split_places`.
        """
        if mask is None:
            return BEiTViT.forward(self, x)
        if isinstance(mask, Tensor) and mask.shape != (len(x), self.num_patches):
            raise ValueError(
                f'a mask of shape {tuple(mask.shape)} for {len(x)} images of {self.num_patches} patches, in a grid of '
                f'{tuple(self.patch_resolution)}'
            )
        return self.encode(self.patch_pixels(x), split_places(mask).visible)

    def patch_pixels(self, x: Tensor) -> Tensor:
        """Return the pixels ``(B, N, 3 p p)`` of the patches of images ``(B, 3, H, W)``, channels first.

        Raises:
            ValueError: The images are not of the size that the model was built for.
        """
        if tuple(x.shape[-2:]) != tuple(self.img_size):
            raise ValueError(
                f'masked images must have the size that the model was built for, {tuple(self.img_size)} (height, '
                f'width); got {tuple(x.shape[-2:])}: set img_size of the backbone, or the size of the crop'
            )
        (height, width), (rows, columns) = self.patch_embed.projection.kernel_size, self.patch_resolution
        x = x.unflatten(3, (columns, width)).unflatten(2, (rows, height))
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def encode(self, pixels: Tensor, places: Tensor) -> Tensor:
        """Embed and encode the patches at ``places`` (B, V).

        The convolution has nothing to do for the others, whose pixels ``(B, N, 3 p p)`` are not touched.

        Returns:
            ``(B, 1 + V, D)``.
        """
        projection = self.patch_embed.projection
        x = F.linear(tokens_at(pixels, places), projection.weight.flatten(1), projection.bias)
        x = x + tokens_at(self.pos_embed[:, 1:], places)
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = self.drop_after_pos(torch.cat([cls_token, x], dim=1))
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x) if self.final_norm else x

    def _prepare_pos_embed(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        """Resize the table of a checkpoint to this model's grid; the host's assumes that both are square."""
        name = f'{prefix}pos_embed'
        if name not in state_dict:
            return
        table = state_dict[name]
        source = grid_of_table(table)
        if source != tuple(self.patch_resolution):
            state_dict[name] = resize_pos_embed(table, source, self.patch_resolution, self.interpolate_mode, 1)


def rescale(weights: Sequence[Tensor]) -> None:
    """Divide the weight of layer ``i`` (from 1) by ``sqrt(2 i)``, in place."""
    for depth, weight in enumerate(weights, start=1):
        weight.data.div_(sqrt(2 * depth))


def grid_of_table(table: Tensor) -> tuple[int, int]:
    """Return the grid ``(h, w)`` of a position table ``(1, 1 + h w, D)``.

    A checkpoint does not say it. A sine-cosine table shows it; any other is taken as square.

    Raises:
        ValueError: The table is not a sine-cosine one and not square.
    """
    num_patches = table.size(1) - 1
    for height in (n for n in range(1, num_patches + 1) if num_patches % n == 0):
        grid = (height, num_patches // height)
        if torch.allclose(table.float().cpu(), sincos_table(grid, table.size(2)), atol=1e-2):  # also in bfloat16
            return grid
    side = round(sqrt(num_patches))
    if side**2 != num_patches:
        raise ValueError(f'pos_embed of {num_patches} patches is neither a sine-cosine table nor square')
    return side, side
