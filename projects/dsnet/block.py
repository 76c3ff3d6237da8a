"""DS-Block: split the channels, propagate each stream at its scale, align the two, join them.

For the paper and the letters see ``streams.py``; ``C`` are the channels of the block, ``(H', W')`` the size of the
global stream.
"""

import math

import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from .pointwise import Pointwise, pointwise
from .streams import GlobalStream, InterScaleAlignment, LocalStream


class FeedForward(nn.Module):
    """Two 1x1 convolutions with a GELU between them.

    Args:
        channels: Of the map and of the result.
        hidden: Of the map between the convolutions.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Pointwise(channels, hidden)
        self.fc2 = Pointwise(hidden, channels)

    def _second_half(self, hidden: Tensor) -> Tensor:
        return self.fc2(F.gelu(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to the same shape."""
        hidden = self.fc1(x)
        if self.training and hidden.requires_grad:
            # Keeps the map before the GELU, not also the one behind it, a fifth of what training keeps. In backward the
            # GELU alone is computed again: checkpoint() stops as soon as it has what the convolution needs.
            return cp.checkpoint(self._second_half, hidden, use_reentrant=False, preserve_rng_state=False)
        return self._second_half(hidden)


class DSBlock(nn.Module):
    """One DS-Block, for ``(B, C, H, W)`` of any size.

    Args:
        channels: ``C``.
        num_heads: Heads of the attention; they divide the channels of the global stream.
        global_ratio: How many times smaller height and width of the global stream are; never below one token.
        mlp_ratio: Hidden channels of the feed-forward network over ``C``.
        split_ratio: Part of the channels in the global stream, the paper's alpha. At 0 and 1 there is one stream.
        inter_scale_align: Whether the streams attend to each other; without, the paper's variant without a star.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Probability that an image skips a branch of the block, in training.
        norm_cfg: Config of the norms of maps; tokens have layer norms.
        with_cp: Recompute the block in backward to save memory.

    Raises:
        ValueError: ``split_ratio`` or ``global_ratio`` out of range, or heads that do not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        global_ratio: int,
        mlp_ratio: float = 4,
        split_ratio: float = 0.5,
        inter_scale_align: bool = True,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= split_ratio <= 1:
            raise ValueError(f'split_ratio={split_ratio} is not in 0 … 1')
        if global_ratio < 1 or global_ratio != int(global_ratio):
            raise ValueError(f'global_ratio={global_ratio} is not a whole number from 1 on')
        # Of an odd number the global stream has one more, as in the public code; the term is for 1 - 0.9 and the like.
        self.local_channels = math.floor(channels * (1 - split_ratio) + 1e-6)
        self.global_channels = channels - self.local_channels
        if self.global_channels % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide the {self.global_channels} channels of the global stream '
                f'(channels={channels}, split_ratio={split_ratio})'
            )
        self.global_ratio = global_ratio
        self.with_cp = with_cp
        # The norms first: the hosts' fuse_conv_bn() folds a norm into the convolution that is registered before it.
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.norm2 = build_norm_layer(norm_cfg, channels)[1]
        self.pos_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        if self.local_channels:
            self.local = LocalStream(self.local_channels, norm_cfg)
        if self.global_channels:
            self.glob = GlobalStream(self.global_channels, num_heads, attn_drop_rate)
        self.align = None
        if inter_scale_align and self.local_channels and self.global_channels:
            self.align = InterScaleAlignment(
                self.local_channels, self.global_channels, num_heads, attn_drop_rate, norm_cfg
            )
        self.proj_out = nn.Conv2d(channels, channels, 1)
        self.ffn = FeedForward(channels, hidden=int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def resize(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize ``(B, C, H, W)`` without antialiasing, as the public code does."""
        if self.global_ratio == 1:
            return x
        return F.interpolate(x, size=size, mode='bilinear', align_corners=False)

    def mix(self, x: Tensor) -> Tensor:
        """Send ``(B, C, H, W)`` through both projections and, between them, the streams; same shape.

        A 1x1 convolution and a bilinear resize change places without changing the result, the weights of the resize
        sum to one. So the global stream is projected where it is small: before its shrinking and behind its growing
        that would be the same at ``N`` positions instead of ``n``.
        """
        height, width = x.shape[2:]
        c_l, c_g = self.local_channels, self.global_channels
        w_in, b_in = self.proj_in.weight, self.proj_in.bias
        w_out, b_out = self.proj_out.weight, self.proj_out.bias
        if c_l:
            local = self.local(pointwise(x, w_in[c_g:], b_in[c_g:]))
        if not c_g:
            return pointwise(local, w_out, b_out)
        # max() in this order keeps the traced size, not the constant, in an exported graph.
        small = max(height // self.global_ratio, 1), max(width // self.global_ratio, 1)
        tokens = self.resize(x, small).flatten(2).transpose(1, 2)
        tokens = self.glob(F.linear(tokens, w_in[:c_g].flatten(1), b_in[:c_g]))
        if self.align is not None:
            local, tokens = self.align(local, tokens)
        tokens = F.linear(tokens, w_out[:, c_l:].flatten(1), None if c_l else b_out)
        glob = self.resize(tokens.transpose(1, 2).unflatten(2, small), (height, width))
        return pointwise(local, w_out[:, :c_l], b_out).add_(glob) if c_l else glob

    def _forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_conv(x)
        x = x + self.drop_path(self.mix(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)
