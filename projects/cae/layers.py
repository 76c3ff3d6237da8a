"""Transformer blocks of CAE: mmpretrain's, with fused attention and what its versions get wrong put right.

Follows sec. 3 of arXiv 2202.03026 and the authors' released code (https://github.com/Atten4Vis/CAE, no licence file:
read, not copied). Names of parameters are mmpretrain's, so that checkpoints and converters of the host fit.

Shapes: ``B`` images, ``N`` tokens, ``M`` masked tokens, ``V`` visible tokens, ``C`` channels, ``H`` heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule
from mmpretrain.models.backbones.beit import BEiTTransformerEncoderLayer
from mmpretrain.models.necks.cae_neck import CAETransformerRegressorLayer
from mmpretrain.models.utils import BEiTAttention, CrossMultiheadAttention, build_norm_layer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .relative_position import relative_position_index, resize_bias_table

NORM_CFG, ACT_CFG = dict(type='LN', eps=1e-6), dict(type='GELU')


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Turn ``(B, N, C)`` into ``(B, H, N, C / H)``."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def check_heads(dims: int, num_heads: int) -> None:
    """Raise ``ValueError`` where the heads do not divide the channels."""
    if dims % num_heads:
        raise ValueError(f'embed_dims={dims} is not a multiple of num_heads={num_heads}')


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Return the rate of each layer of a stack: from 0, linearly, to that of the last."""
    return [last * layer / max(depth - 1, 1) for layer in range(depth)]


def scaled(branch: Tensor, gamma: Tensor | None) -> Tensor:
    """Return ``gamma * branch`` for ``(B, N, C)``.

    The output is scaled, as by the authors, never the weight: times 1e-5 of CAE-L it would underflow in float16.
    """
    return branch if gamma is None else gamma * branch


def plus(x: Tensor, bias: Tensor) -> Tensor:
    """Add a bias ``(C,)`` to ``(..., C)``, in the precision of the latter, as a linear layer under autocast does.

    The projections are called and not read for their weights: hooks, LoRA and quantization depend on the call.
    """
    return x + bias.to(x.dtype)


class CAEAttention(BEiTAttention):
    """Self-attention of BEiT through ``scaled_dot_product_attention``; ``(B, N, C)`` in and out.

    The host's class takes ``attn_drop_rate`` and ``proj_drop_rate``, but its layer passes ``attn_drop`` and
    ``proj_drop``, which ``**kwargs`` swallows: dropout is never applied there. It also fills the relative position
    table with noise of 0.02; the authors start from zero, so that a fine-tuned model first does what it learned.
    """

    def init_weights(self) -> None:
        """Leave the relative position table at zero."""
        BaseModule.init_weights(self)

    def own_bias(self, grid: tuple[int, int] | None = None) -> Tensor | None:
        """Return this layer's bias ``(H, 1 + h w, 1 + h w)`` for a grid; None if it has none.

        Args:
            grid: ``(h, w)`` patches; default: that of the model. For another one the table is resized.
        """
        table, index = self.relative_position_bias_table, self.relative_position_index
        if table is None:
            return None
        if grid is not None and tuple(grid) != tuple(self.window_size):
            table = resize_bias_table(table, self.window_size, grid)
            index = relative_position_index(grid, table.device)
        return table[index.long()].permute(2, 0, 1)

    def forward(
        self,
        x: Tensor,
        rel_pos_bias: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """Attend among the tokens.

        Args:
            x: ``(B, N, C)``.
            rel_pos_bias: ``(H, N, N)``, a bias that all layers share, added to this layer's own.
            grid: ``(h, w)`` patches of the image, if not those of the model.

        Returns:
            ``(B, N, C)``.
        """
        if self.bias == 'qv_bias':  # a bias of the keys shifts all logits of a query alike: it has no effect
            qkv = plus(self.qkv(x), torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias]))
        else:
            qkv = self.qkv(x)
        q, k, v = (split_heads(part, self.num_heads) for part in qkv.chunk(3, dim=-1))
        own, bias = self.own_bias(grid), rel_pos_bias
        if own is not None:
            bias = own if bias is None else own + bias
        dropout = self.attn_drop.p if self.training else 0.0
        bias = None if bias is None else bias[None].to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=self.scale)
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))


class CAEFFN(FFN):
    """FFN of mmcv that keeps its hidden map once; ``(B, N, C)`` in and out, no skip.

    The activation keeps its input and the second layer its own: two maps of the hidden width, nearly half of what a
    block keeps. Here the backward pass computes the second from the first, up to the product, which is not repeated.

    Args:
        embed_dims: ``C``.
        feedforward_channels: Hidden width.
        drop_rate: Dropout after both layers.
        act_cfg: Activation.
    """

    def __init__(self, embed_dims: int, feedforward_channels: int, drop_rate: float, act_cfg: dict) -> None:
        super().__init__(embed_dims, feedforward_channels, ffn_drop=drop_rate, act_cfg=act_cfg, add_identity=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block adds to ``(B, N, C)``."""
        (first, activation, drop), second, last_drop = self.layers
        hidden = first(x)

        def rest(hidden: Tensor) -> Tensor:
            return second(drop(activation(hidden)))

        if self.training and hidden.requires_grad:
            # It stops at the last tensor that is asked for, which is the input of the second layer.
            x = checkpoint(rest, hidden, use_reentrant=False)
        else:
            x = rest(hidden)
        return last_drop(x)


class CAEEncoderLayer(BEiTTransformerEncoderLayer):
    """Pre-norm block with LayerScale; one DropPath per branch, fused attention. ``(B, N, C)`` in and out.

    The host applies DropPath to the FFN branch twice, inside mmcv's FFN and again outside, so that the branch
    survives with ``(1 - p)^2``. Its constructor also builds attention and FFN more than once and compares a
    ``layer_scale_init_value`` of None with 0; that is why the parts are built here. Names are the host's.

    Args:
        embed_dims: ``C``.
        num_heads: ``H``.
        feedforward_channels: Width of the hidden layer of the FFN.
        layer_scale_init_value: Start value of both LayerScale vectors; 0 or None: no LayerScale.
        window_size: Grid of patches, for the relative position bias.
        use_rel_pos_bias: Learn a relative position bias in this layer (fine-tuning only).
        drop_rate: Dropout after the projection and in the FFN.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Probability that a branch is skipped, per image.
        bias: ``'qv_bias'``, True or False; see the host's ``BEiTAttention``.
        act_cfg: Activation of the FFN.
        norm_cfg: Normalization.
        with_cp: Compute activations again in the backward pass instead of keeping them.
        init_cfg: Initialization.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        layer_scale_init_value: float | None = 0.1,
        window_size: tuple[int, int] | None = None,
        use_rel_pos_bias: bool = False,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        bias: str | bool = 'qv_bias',
        act_cfg: dict = ACT_CFG,
        norm_cfg: dict = NORM_CFG,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        BaseModule.__init__(self, init_cfg=init_cfg)
        check_heads(embed_dims, num_heads)
        self.embed_dims = embed_dims
        self.with_cp = with_cp
        self.ln1 = build_norm_layer(norm_cfg, embed_dims)
        self.attn = CAEAttention(
            embed_dims=embed_dims,
            num_heads=num_heads,
            window_size=window_size,
            use_rel_pos_bias=use_rel_pos_bias,
            bias=bias,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=drop_rate,
        )
        self.ln2 = build_norm_layer(norm_cfg, embed_dims)
        self.ffn = CAEFFN(embed_dims, feedforward_channels, drop_rate, act_cfg)
        self.drop_path = DropPath(drop_path_rate)
        self.gamma_1 = self.gamma_2 = None
        if layer_scale_init_value:
            self.gamma_1 = nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))
            self.gamma_2 = nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says; the host would add noise to the biases of the FFN."""
        BaseModule.init_weights(self)

    def forward(self, x: Tensor, rel_pos_bias: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """Apply the block to ``(B, N, C)``; ``rel_pos_bias`` and ``grid`` as in :class:`CAEAttention`."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._forward, x, rel_pos_bias, grid, use_reentrant=False)
        return self._forward(x, rel_pos_bias, grid)

    def _forward(self, x: Tensor, rel_pos_bias: Tensor | None, grid: tuple[int, int] | None) -> Tensor:
        x = x + self.drop_path(scaled(self.attn(self.ln1(x), rel_pos_bias, grid), self.gamma_1))
        return x + self.drop_path(scaled(self.ffn(self.ln2(x)), self.gamma_2))


class CAECrossAttention(CrossMultiheadAttention):
    """Cross-attention of the regressor through ``scaled_dot_product_attention``, otherwise the host's."""

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from ``x`` (B, M, C) to keys ``k`` and values ``v``, both (B, V + M, C); returns (B, M, C)."""
        q = split_heads(plus(self.q(x), self.q_bias), self.num_heads)
        k = split_heads(self.k(k), self.num_heads)
        v = split_heads(plus(self.v(v), self.v_bias), self.num_heads)
        dropout = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))


class CAERegressorLayer(CAETransformerRegressorLayer):
    """Block of the latent contextual regressor (sec. 3.2): queries are the masked tokens, keys and values all tokens.

    As in the authors' code the second normalization sits on the residual stream, so that the skip around the FFN
    carries the normalized tensor.

    Args:
        embed_dims: ``C``.
        num_heads: ``H``.
        feedforward_channels: Width of the hidden layer of the FFN.
        layer_scale_init_value: As in :class:`CAEEncoderLayer`; the host fails on its own default, None.
        with_cp: Compute activations again in the backward pass instead of keeping them.
        **kwargs: The host's arguments.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        layer_scale_init_value: float | None = 0.1,
        with_cp: bool = False,
        **kwargs,
    ) -> None:
        check_heads(embed_dims, num_heads)
        super().__init__(
            embed_dims, num_heads, feedforward_channels, layer_scale_init_value=layer_scale_init_value or 0.0, **kwargs
        )
        self.with_cp = with_cp
        self.cross_attn = CAECrossAttention(
            embed_dims,
            num_heads,
            qkv_bias=kwargs.get('qkv_bias', False),
            attn_drop=kwargs.get('attn_drop_rate', 0.0),
            proj_drop=kwargs.get('drop_rate', 0.0),
        )
        self.ffn = CAEFFN(
            embed_dims, feedforward_channels, kwargs.get('drop_rate', 0.0), kwargs.get('act_cfg', ACT_CFG)
        )

    def forward(self, x_q: Tensor, x_kv: Tensor, pos_q: Tensor, pos_k: Tensor) -> Tensor:
        """Update the queries.

        Args:
            x_q: ``(B, M, C)`` queries.
            x_kv: ``(B, V + M, C)`` visible latents, then queries.
            pos_q: ``(B, M, C)`` position embedding of the queries.
            pos_k: ``(B, V + M, C)`` position embedding of the keys; values get none.

        Returns:
            ``(B, M, C)``.
        """
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(super().forward, x_q, x_kv, pos_q, pos_k, use_reentrant=False)
        return super().forward(x_q, x_kv, pos_q, pos_k)
