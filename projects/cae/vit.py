"""Encoder of CAE and CAE v2: a ViT that sees only the visible patches.

Sec. 3.1 of arXiv 2202.03026 and the authors' released code. Sizes Ti and S have 12 heads, as in that code, and not
DeiT's 3 and 6: no weight shape depends on the number of heads, so the wrong one loads silently.

Shapes: ``B`` images, ``N`` patches of a grid ``(h, w)``, ``V`` visible ones, ``D`` channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmengine.model import ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.utils import build_norm_layer, resize_pos_embed
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmplugins.utils.encoders import pretrained_of

from .layers import NORM_CFG, CAEEncoderLayer, drop_path_rates
from .sizes import arch_of, pair
from .tokens import Places, grid_of_table, sincos_table, split_places, tokens_at
from .weights.start import check_layer_scale, load_encoder
from .weights.start_values import INIT_CFG, rescale

OUT_TYPES = ('raw', 'cls_token', 'featmap', 'avg_featmap')


@MODELS.register_module()
class CAEViT(BaseBackbone):
    """ViT of CAE for pretraining, and with ``mask=None`` a plain backbone for whatever comes after.

    Names of parameters are those of the host's ``CAEPretrainViT``, whose checkpoints fit. Beyond it: the authors' Ti
    and S, any grid, ``mask`` may be left out, one DropPath a branch, fused attention, no LayerScale, ``with_cp``.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``, or a dict with ``embed_dims``, ``num_layers``,
            ``num_heads`` and ``feedforward_channels``.
        img_size: Height and width of the images, or one number for both; a multiple of the patch size.
        patch_size: Height and width of a patch, or one number.
        in_channels: Of the images.
        layer_scale_init_value: 0.1 for Ti, S and B, 1e-5 for L (authors' code); None: no LayerScale.
        drop_rate: Dropout of tokens, after projections and in the FFN.
        drop_path_rate: Of the last layer; grows linearly from 0.
        bias: Of query, key and value: ``'qv_bias'``, True or False.
        norm_cfg: Normalization.
        pre_norm: Normalize the tokens before the first layer, as CLIP does.
        final_norm: Normalize the tokens after the last layer.
        use_rel_pos_bias: Learn a relative position bias in each layer; for whole images only.
        interpolate_mode: How position tables are resized.
        rescale_init: Divide the output weights of both branches of layer ``i`` by ``sqrt(2 i)``, as BEiT does. The
            authors' script for L asks for it (``--fix_init_weight``).
        with_cp: Trade time for memory: compute activations again in the backward pass.
        out_type: What :meth:`forward` returns without a mask: ``'raw'`` (B, 1 + N, D), ``'cls_token'`` (B, D),
            ``'featmap'`` (B, D, h, w) or ``'avg_featmap'`` (B, D), which adds a second normalization ``ln2``.
        out_indices: Layers whose output is returned without a mask; negative ones count from the end.
        frozen_stages: Number of layers that are frozen, with the patch embedding; -1: none.
        layer_cfgs: More arguments of :class:`CAEEncoderLayer`; one dict, or one per layer.
        init_cfg: Initialization. ``dict(type='Pretrained', checkpoint=…)`` takes a file of CAE, timm, MAE, DINO, BEiT
            (also of transformers) or CLIP (needs ``pre_norm``, no LayerScale, ``norm_cfg`` and ``act_cfg`` of its own).

    Raises:
        ValueError: The patches do not divide the image, or an argument is unknown or out of range.
    """

    num_extra_tokens = 1

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        *,
        in_channels: int = 3,
        layer_scale_init_value: float | None = 0.1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        bias: str | bool = 'qv_bias',
        norm_cfg: dict = NORM_CFG,
        pre_norm: bool = False,
        final_norm: bool = True,
        use_rel_pos_bias: bool = False,
        interpolate_mode: str = 'bicubic',
        rescale_init: bool = False,
        with_cp: bool = False,
        out_type: str = 'raw',
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        layer_cfgs: dict | Sequence[dict] | None = None,
        init_cfg: dict | list[dict] | None = INIT_CFG,
    ) -> None:
        super().__init__(init_cfg)
        arch = arch_of(arch)
        self.embed_dims, self.num_layers = arch['embed_dims'], arch['num_layers']
        if out_type not in OUT_TYPES:
            raise ValueError(f'out_type={out_type!r}; one of {OUT_TYPES}')
        if not -1 <= frozen_stages <= self.num_layers:
            raise ValueError(f'frozen_stages={frozen_stages} is not in -1 … {self.num_layers}')
        self.out_type, self.out_indices = out_type, self._resolve(out_indices)
        self.final_norm, self.use_rel_pos_bias = final_norm, use_rel_pos_bias
        self.interpolate_mode, self.rescale_init = interpolate_mode, rescale_init
        self._build_embedding(pair(img_size), pair(patch_size), in_channels)
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.pre_norm = build_norm_layer(norm_cfg, self.embed_dims) if pre_norm else nn.Identity()
        shared = dict(
            num_heads=arch['num_heads'],
            feedforward_channels=arch['feedforward_channels'],
            layer_scale_init_value=layer_scale_init_value,
            use_rel_pos_bias=use_rel_pos_bias,
            drop_rate=drop_rate,
            bias=bias,
            norm_cfg=norm_cfg,
            with_cp=with_cp,
        )
        self._build_layers(drop_path_rate, layer_cfgs, shared)
        if final_norm:
            self.ln1 = build_norm_layer(norm_cfg, self.embed_dims)
        if out_type == 'avg_featmap':
            self.ln2 = build_norm_layer(norm_cfg, self.embed_dims)
        self.frozen_stages = frozen_stages
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def _build_embedding(self, img_size: tuple[int, int], patch_size: tuple[int, int], in_channels: int) -> None:
        """Make the embedding of patches, the class token and the position table."""
        if any(side % patch for side, patch in zip(img_size, patch_size, strict=True)):
            raise ValueError(f'patches of {patch_size} do not divide an image of {img_size}')
        self.img_size = img_size
        self.patch_embed = PatchEmbed(
            in_channels=in_channels,
            input_size=img_size,
            embed_dims=self.embed_dims,
            kernel_size=patch_size,
            stride=patch_size,
        )
        self.patch_resolution = tuple(self.patch_embed.init_out_size)
        self.num_patches = self.patch_resolution[0] * self.patch_resolution[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        # A parameter, as in the authors' checkpoints, and fixed, as there.
        self.pos_embed = nn.Parameter(sincos_table(self.patch_resolution, self.embed_dims), requires_grad=False)

    def _build_layers(self, drop_path_rate: float, layer_cfgs: dict | Sequence[dict] | None, shared: dict) -> None:
        """Make the layers, of arguments that they share and of their own."""
        layer_cfgs = layer_cfgs if isinstance(layer_cfgs, Sequence) else [layer_cfgs or {}] * self.num_layers
        shared = dict(embed_dims=self.embed_dims, window_size=self.patch_resolution, **shared)
        self.layers = ModuleList(
            CAEEncoderLayer(**{**shared, 'drop_path_rate': rate, **cfg})
            for rate, cfg in zip(drop_path_rates(drop_path_rate, self.num_layers), layer_cfgs, strict=True)
        )

    def _resolve(self, out_indices: int | Sequence[int]) -> list[int]:
        """Count negative indices from the end; all must name a layer."""
        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        if any(not -self.num_layers <= index < self.num_layers for index in indices):
            raise ValueError(f'out_indices={indices} of a model with {self.num_layers} layers')
        return [index % self.num_layers for index in indices]

    def _frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        """What ``frozen_stages`` freezes."""
        if self.frozen_stages <= 0:
            return []
        parts = [self.cls_token, self.patch_embed, self.drop_after_pos, self.pre_norm]
        parts += self.layers[: self.frozen_stages]
        if self.frozen_stages == self.num_layers:
            parts += [getattr(self, name) for name in ('ln1', 'ln2') if hasattr(self, name)]
        return parts

    def train(self, mode: bool = True) -> CAEViT:
        """Set the mode of all parts but the frozen ones."""
        nn.Module.train(self, mode)  # the host's returns nothing
        for part in self._frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def init_weights(self) -> None:
        """Initialize as the authors do, or load what ``init_cfg`` names; see :func:`load_encoder`."""
        if file := pretrained_of(self.init_cfg):
            load_encoder(self, file['checkpoint'], file.get('num_heads'), file.get('prefix'))
            return
        super().init_weights()
        self.pos_embed.data.copy_(sincos_table(self.patch_resolution, self.embed_dims))
        trunc_normal_(self.cls_token, std=0.02, a=-0.02, b=0.02)
        if self.rescale_init:
            rescale(self.layers)

    def forward(self, x: Tensor, mask: Tensor | Places | None = None) -> Tensor | tuple[Tensor, ...]:
        """Encode the visible patches, or without a mask the whole image.

        Args:
            x: ``(B, 3, H, W)`` normalized images.
            mask: ``(B, N)``, True where a patch is hidden, the same number in each row; or the places themselves.
                What lies under the mask never enters the network.

        Returns:
            With a mask ``(B, 1 + V, D)`` after the last normalization: CLS, then the visible patches in raster
            order. Without, a tuple with one entry per ``out_indices``, of ``out_type``; sides that patches do not
            divide are padded with zeros below and on the right.

        Raises:
            ValueError: The mask does not fit the grid, or see :func:`split_places`.
        """
        if mask is None:
            return self.encode_whole(x)
        if self.use_rel_pos_bias:
            raise ValueError('use_rel_pos_bias is for whole images: it has no meaning where patches are left out')
        if isinstance(mask, Tensor) and mask.shape != (len(x), self.num_patches):
            raise ValueError(
                f'a mask of shape {tuple(mask.shape)} for {len(x)} images of {self.num_patches} patches, in a grid of '
                f'{self.patch_resolution}'
            )
        return self.encode(self.patch_pixels(x), split_places(mask).visible)

    def patch_pixels(self, x: Tensor) -> Tensor:
        """Return the pixels ``(B, N, 3 p p)`` of the patches of images ``(B, 3, H, W)``, channels first.

        Raises:
            ValueError: The images are not of the size that the model was built for.
        """
        if tuple(x.shape[-2:]) != self.img_size:
            raise ValueError(
                f'masked images must have the size that the model was built for, {self.img_size} (height, width); '
                f'got {tuple(x.shape[-2:])}: set img_size of the backbone, or the size of the crop'
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
        patches = tokens_at(pixels, places).unflatten(2, (-1, *projection.kernel_size))
        x = projection(patches.flatten(0, 1)).flatten(1).unflatten(0, places.shape)
        x = x + tokens_at(self.pos_embed[:, 1:], places)
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = self.pre_norm(self.drop_after_pos(torch.cat([cls_token, x], dim=1)))
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x) if self.final_norm else x

    def encode_whole(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images ``(B, 3, H, W)``; see :meth:`forward`."""
        x, grid = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = self.pre_norm(self.drop_after_pos(x + self.position_table(grid)))
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x, grid=grid)
            if i == self.num_layers - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._format_output(x, grid))
        return tuple(outs)

    def position_table(self, grid: tuple[int, int]) -> Tensor:
        """Position table (1, 1 + h * w, D) of a grid (h, w)."""
        return resize_pos_embed(self.pos_embed, self.patch_resolution, grid, self.interpolate_mode)

    def _format_output(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.out_type == 'raw':
            return x
        if self.out_type == 'cls_token':
            return x[:, 0]
        if self.out_type == 'featmap':
            return x[:, 1:].transpose(1, 2).unflatten(2, tuple(grid))
        return self.ln2(x[:, 1:].mean(dim=1))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rates, and the number of depths.

        Args:
            param_name: In the whole model.
            prefix: Of this module there. What does not start with it, such as the head, is as deep as the last norm.
        """
        name, depths = param_name.removeprefix(prefix), self.num_layers + 2
        if param_name.startswith(prefix) and name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, depths
        stem = param_name.startswith(prefix) and name.startswith(('cls_token', 'pos_embed', 'patch_embed', 'pre_norm'))
        return (0 if stem else depths - 1), depths

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Fit a checkpoint to this model first, as far as that changes nothing of what it computes."""
        check_layer_scale(self, state_dict, prefix)
        self._prepare_state_dict(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _prepare_state_dict(self, state_dict: dict, prefix: str) -> None:
        """Fit the position table of a checkpoint, in place."""
        name = f'{prefix}pos_embed'
        if name in state_dict:
            state_dict[name] = self.fit_table(state_dict[name], self.patch_resolution)

    def fit_table(self, table: Tensor, own: tuple[int, int] | None = None) -> Tensor:
        """Resize a position table (1, 1 + N, D) to this model's grid; ``own`` as in :func:`grid_of_table`."""
        return resize_pos_embed(
            table, grid_of_table(table, own), self.patch_resolution, self.interpolate_mode, self.num_extra_tokens
        )
