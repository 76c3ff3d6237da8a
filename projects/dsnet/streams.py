"""The two streams of a DS-Block and the attention between them.

Mao et al., "Dual-stream Network for Visual Recognition", NeurIPS 2021: intra-scale propagation and inter-scale
alignment. Layout and numerics as in the public code (PaddleClas ``dsnet.py`` and github.com/SteveTsui/DS-Net, both
Apache-2.0, neither by the authors); written anew.

``B``: images; ``H, W``: height and width of the local stream, ``N = H W``; ``n``: tokens of the global stream; ``c_l``,
``c_g``: their channels; ``h``: heads; ``d = c_g / h``.
"""

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn


def to_tokens(x: Tensor) -> Tensor:
    """View a map ``(B, C, H, W)`` as tokens ``(B, N, C)``."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """View tokens ``(B, N, C)`` as a map ``(B, C, H, W)`` of the size ``(H, W)``."""
    return tokens.transpose(1, 2).unflatten(2, size)


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split ``(B, N, 3 h d)``, ordered ``[q | k | v]``, into three ``(B, h, N, d)``."""
    # Views whose last axis stays dense: torch has no fused kernel for anything else.
    q, k, v = (part.unflatten(2, (num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2))
    return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor, drop_rate: float = 0.0) -> Tensor:
    """Compute ``softmax(q k^T / sqrt(d)) v`` without storing the attention matrix.

    Args:
        q: ``(B, h, Q, d)``.
        k: ``(B, h, K, d)``.
        v: ``(B, h, K, d)``.
        drop_rate: Of the attention weights. On a CPU torch has no fused kernel with dropout: there, a rate above 0
            stores the matrix.

    Returns:
        ``(B, Q, h d)``.
    """
    return F.scaled_dot_product_attention(q, k, v, dropout_p=drop_rate).transpose(1, 2).flatten(2)


class DepthWiseConv(nn.Conv2d):
    """Depth-wise 3x3 convolution of ``(B, C, H, W)``, same shape.

    Args:
        channels: ``C``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        # Two views: their gradient has the strides of the weights. That of the convolution has others in channels-last
        # memory, and DDP then warns and copies.
        return self._conv_forward(x, self.weight.squeeze(1).unsqueeze(1), self.bias)


class LocalStream(nn.Module):
    """Intra-scale propagation of the local stream: ``x + DW3x3(BN(x))``.

    Args:
        channels: ``c_l``.
        norm_cfg: Config of the norm.
    """

    def __init__(self, channels: int, norm_cfg: dict = dict(type='BN')) -> None:  # noqa: B006
        super().__init__()
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.dwconv = DepthWiseConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, c_l, H, W)`` to the same shape."""
        return x + self.dwconv(self.norm(x))


class GlobalStream(nn.Module):
    """Intra-scale propagation of the global stream: ``x + MHSA(LN(x))``, without a projection of the output.

    Args:
        channels: ``c_g``.
        num_heads: ``h``.
        attn_drop_rate: Dropout of the attention weights.
    """

    def __init__(self, channels: int, num_heads: int, attn_drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, n, c_g)`` to the same shape."""
        qkv = split_heads(self.qkv(self.norm(x)), self.num_heads)
        return x + attend(*qkv, drop_rate=self.attn_drop_rate if self.training else 0.0)


class InterScaleAlignment(nn.Module):
    """Co-attention of the streams: each asks the other, both with the values from before.

    Not in the paper: with ``c_l != c_g`` the queries, keys and values of both have ``c_g`` channels, so that heads of
    the two fit each other. With equal widths that is the paper's.

    Args:
        local_channels: ``c_l``.
        global_channels: ``c_g``.
        num_heads: ``h``.
        attn_drop_rate: Dropout of the attention weights.
        norm_cfg: Config of the norm of the local stream.
    """

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        num_heads: int,
        attn_drop_rate: float = 0.0,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.local_norm = build_norm_layer(norm_cfg, local_channels)[1]
        self.local_qkv = nn.Conv2d(local_channels, 3 * global_channels, 1)
        self.local_proj = nn.Linear(global_channels, local_channels)
        self.global_norm = nn.LayerNorm(global_channels)
        self.global_qkv = nn.Linear(global_channels, 3 * global_channels)
        self.global_proj = nn.Linear(global_channels, global_channels)

    def forward(self, local: Tensor, glob: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(B, c_l, H, W)`` and ``(B, n, c_g)`` to the same shapes."""
        drop_rate = self.attn_drop_rate if self.training else 0.0
        local_qkv = to_tokens(self.local_qkv(self.local_norm(local)))
        # In channels-last memory that is a view already.
        local_q, local_k, local_v = split_heads(local_qkv.contiguous(), self.num_heads)
        global_q, global_k, global_v = split_heads(self.global_qkv(self.global_norm(glob)), self.num_heads)
        to_local = self.local_proj(attend(local_q, global_k, global_v, drop_rate))
        to_global = self.global_proj(attend(global_q, local_k, local_v, drop_rate))
        return local + to_map(to_local, local.shape[2:]), glob + to_global
