"""Latent contextual regressor and decoder of CAE; for CAE v2 the regressor and the read-out that all tokens share.

Sec. 3.2 and 3.3 of arXiv 2202.03026, and the authors' code for CAE v2 (arXiv 2211.09799).

Parameters, by the authors' names: ``regresser.regressor_blocks`` are ``regressors``, ``regresser.norm`` is
``norm_regressor``, ``decoder.decoder_blocks`` are ``decoders``, ``decoder.norm`` is ``norm_decoder``, ``decoder.head``
is ``head``, ``encoder_to_regresser`` is ``projection``, ``encoder_to_regresser_norm`` is ``norm_projection``,
``rd_pos_embed`` is ``pos_embed``.

Shapes: ``B`` images, ``N = V + M`` patches, visible and masked, ``D`` channels of the encoder, ``R`` of the regressor.
"""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.necks import CAENeck
from mmpretrain.models.utils import build_norm_layer
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmplugins.utils.encoders import pretrained_of

from .layers import NORM_CFG, CAEEncoderLayer, CAERegressorLayer, drop_path_rates
from .tokens import Places, sincos_table, split_places, tokens_at
from .weights.start_values import rescale


@MODELS.register_module()
class CAERegressorNeck(CAENeck):
    """Regressor, decoder and read-out.

    Beyond the host's: the number of masked tokens is that of the mask (the host is built for one number, 75), widths
    ``D`` and ``R`` may differ, the decoder may have no layer, any grid, ``layer_scale_init_value=None``, one DropPath
    per branch, ``with_cp``.

    Args:
        num_classes: Channels of the read-out: tokens of the codebook, pixels of a patch, or channels of the target.
        in_channels: ``D``; None: as ``embed_dims``. Another number than ``embed_dims`` adds a projection and a
            normalization, as the authors have it for CAE v2 Ti (192 to 96).
        embed_dims: ``R``.
        grid_size: Grid of patches ``(h, w)`` of the encoder.
        regressor_depth: Cross-attention blocks of the regressor, at least 1.
        decoder_depth: Self-attention blocks of the decoder; 0 for CAE v2.
        num_heads: Heads of both; the authors' code has 12 for each size.
        mlp_ratio: Hidden width of the FFN, as a multiple of ``R``.
        layer_scale_init_value: Start value of LayerScale; None: without it.
        drop_path_rate: Of the last block of each stack; grows linearly from 0.
        rescale_init: See :class:`CAEViT`; for both stacks.
        drop_rate: Dropout after projections and in the FFN.
        attn_drop_rate: Dropout of attention weights.
        norm_cfg: Normalization.
        with_cp: Compute activations again in the backward pass instead of keeping them.
        init_cfg: Initialization.

    Raises:
        ValueError: ``regressor_depth`` is 0, or heads or frequencies do not divide ``embed_dims``.
    """

    def __init__(
        self,
        num_classes: int = 8192,
        in_channels: int | None = None,
        embed_dims: int = 768,
        grid_size: tuple[int, int] = (14, 14),
        regressor_depth: int = 4,
        decoder_depth: int = 4,
        num_heads: int = 12,
        mlp_ratio: float = 4,
        layer_scale_init_value: float | None = 0.1,
        drop_path_rate: float = 0.0,
        rescale_init: bool = False,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        norm_cfg: dict = NORM_CFG,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if regressor_depth < 1:
            raise ValueError(f'regressor_depth={regressor_depth}: nothing would predict the masked tokens')
        # The host has no argument for the classes of its layers: let it build none, and add ours.
        super().__init__(
            num_classes=num_classes,
            embed_dims=embed_dims,
            regressor_depth=0,
            decoder_depth=0,
            norm_cfg=norm_cfg,
            init_cfg=init_cfg,
        )
        del self.mask_token_num
        self.grid_size = tuple(grid_size)
        self.rescale_init = rescale_init
        self.projection = self.norm_projection = None
        if in_channels not in (None, embed_dims):
            self.projection = nn.Linear(in_channels, embed_dims)
            self.norm_projection = build_norm_layer(norm_cfg, embed_dims)
        shared = dict(
            embed_dims=embed_dims,
            num_heads=num_heads,
            feedforward_channels=int(mlp_ratio * embed_dims),
            layer_scale_init_value=layer_scale_init_value,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            norm_cfg=norm_cfg,
            with_cp=with_cp,
        )
        self.regressors.extend(
            CAERegressorLayer(**shared, drop_path_rate=rate, qkv_bias=True)
            for rate in drop_path_rates(drop_path_rate, regressor_depth)
        )
        self.decoders.extend(
            CAEEncoderLayer(**shared, drop_path_rate=rate) for rate in drop_path_rates(drop_path_rate, decoder_depth)
        )
        # A parameter, as in the authors' checkpoints, and fixed, as there.
        self.pos_embed = nn.Parameter(sincos_table(self.grid_size, embed_dims), requires_grad=False)

    def init_weights(self) -> None:
        """Initialize as the authors do: Xavier for each linear, the head included; the host treats it apart."""
        BaseModule.init_weights(self)
        if pretrained_of(self.init_cfg):
            return
        self.apply(self._init_weights)
        trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        if self.rescale_init:
            rescale(self.regressors)
            rescale(self.decoders)

    def project(self, x: Tensor) -> Tensor:
        """Bring latents ``(B, K, D)`` of the encoder to ``(B, K, R)``."""
        return x if self.projection is None else self.norm_projection(self.projection(x))

    def regress(self, visible: Tensor, places: Places) -> Tensor:
        """Predict the latents of the masked patches; CAE then normalizes them, CAE v2 does not.

        Args:
            visible: ``(B, V, R)`` projected latents without CLS; the same for each block.
            places: Of the visible and the masked patches in the grid.

        Returns:
            ``(B, M, R)``, not normalized.
        """
        pos = self.pos_embed[:, 1:]
        pos_masked, pos_visible = tokens_at(pos, places.masked), tokens_at(pos, places.visible)
        pos_all = torch.cat([pos_visible, pos_masked], dim=1)
        masked = self.mask_token.expand(len(visible), places.masked.size(1), -1)
        for regressor in self.regressors:
            masked = regressor(masked, torch.cat([visible, masked], dim=1), pos_masked, pos_all)
        return masked

    def decode(self, latents: Tensor, masked_places: Tensor) -> Tensor:
        """Turn normalized latents ``(B, M, R)`` into predictions ``(B, M, num_classes)``; no visible token helps."""
        x = latents + tokens_at(self.pos_embed[:, 1:], masked_places)
        for decoder in self.decoders:
            x = decoder(x)
        return self.read_out(x)

    def read_out(self, x: Tensor) -> Tensor:
        """Normalize and map ``(B, K, R)`` to ``(B, K, num_classes)``; all that is left of CAE v2's decoder."""
        return self.head(self.norm_decoder(x))

    def forward(self, tokens: Tensor, mask: Tensor | Places, decode: bool = True) -> tuple[Tensor, Tensor | None]:
        """CAE: predict latents and contents of the masked patches.

        Args:
            tokens: ``(B, 1 + V, D)`` from the encoder; CLS is not used.
            mask: ``(B, N)``, True where a patch is masked; or the places themselves.
            decode: False: stop at the latents.

        Returns:
            Latents ``(B, M, R)`` and predictions ``(B, M, num_classes)`` or None.
        """
        places = split_places(mask)
        latents = self.norm_regressor(self.regress(self.project(tokens[:, 1:]), places))
        return latents, self.decode(latents, places.masked) if decode else None
