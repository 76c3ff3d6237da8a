"""DS-Block: split the channels, propagate each stream at its scale, align the two, join them.

For the paper and the letters see ``streams.py``; ``C`` are the channels of the block, ``(H', W')`` the size of the
global stream.
"""

import itertools
import math

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmplugins.utils.recompute import recompute

from .streams import DepthWiseConv, GlobalStream, InterScaleAlignment, LocalStream, to_map, to_tokens


def global_width(channels: int, split_ratio: float) -> int:
    """Channels of the global stream; of an odd number it has one more, as in the public code."""
    return channels - math.floor(channels * (1 - split_ratio) + 1e-6)  # the term is for 1 - 0.9 and the like


def split_projections(state: dict[str, Tensor], prefix: str, local_channels: int, global_channels: int) -> None:
    """Give each stream its part of projections that a state dict has for both streams in one.

    The public code and our older checkpoints do: ``proj_in`` returns the channels ``[global | local]``, ``proj_out``
    takes ``[local | global]``.

    Args:
        state: Weights by name, changed in place.
        prefix: Of the block, in the names.
        local_channels: ``c_l``.
        global_channels: ``c_g``.
    """
    for layer, name in itertools.product(('in', 'out'), ('weight', 'bias')):
        whole = state.pop(f'{prefix}proj_{layer}.{name}', None)
        if whole is None:
            continue
        if layer == 'in':
            parts = {'global': whole[:global_channels], 'local': whole[global_channels:]}
        elif name == 'weight':
            parts = {'local': whole[:, :local_channels], 'global': whole[:, local_channels:]}
        else:
            parts = {'local' if local_channels else 'global': whole}
        for stream, part in parts.items():
            if part.numel():  # there may be but one stream
                state[f'{prefix}{stream}_{layer}.{name}'] = part


def join_projections(state: dict[str, Tensor], prefix: str) -> None:
    """Undo `split_projections`, in place; the names of the block's weights begin with ``prefix``."""
    for name in ('weight', 'bias'):
        parts = [state.pop(f'{prefix}{stream}_in.{name}', None) for stream in ('global', 'local')]
        state[f'{prefix}proj_in.{name}'] = torch.cat([part for part in parts if part is not None])
    parts = [state.pop(f'{prefix}{stream}_out.weight', None) for stream in ('local', 'global')]
    state[f'{prefix}proj_out.weight'] = torch.cat([part for part in parts if part is not None], dim=1)
    # The sum of both streams has one bias.
    stream = 'local' if f'{prefix}local_out.bias' in state else 'global'
    state[f'{prefix}proj_out.bias'] = state.pop(f'{prefix}{stream}_out.bias')


class FeedForward(nn.Module):
    """Two 1x1 convolutions with a GELU between them.

    Args:
        channels: Of the map and of the result.
        hidden: Of the map between the convolutions.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def _second_half(self, hidden: Tensor) -> Tensor:
        return self.fc2(F.gelu(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to the same shape."""
        hidden = self.fc1(x)
        if self.training and hidden.requires_grad:
            # Keeps the map before the GELU, not also the one behind it, a fifth of what training keeps. In backward the
            # GELU alone is computed again: checkpoint() stops as soon as it has what the convolution needs. The random
            # state is kept for what a user puts in the place of the convolution: LoRA may have a dropout.
            return cp.checkpoint(self._second_half, hidden, use_reentrant=False)
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
        ValueError: ``split_ratio``, ``global_ratio`` or ``num_heads`` out of range, or heads that do not divide the
            channels.
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
        self.global_channels = global_width(channels, split_ratio)
        self.local_channels = channels - self.global_channels
        if num_heads < 1 or num_heads != int(num_heads):
            raise ValueError(f'num_heads={num_heads} is not a whole number from 1 on')
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
        self.pos_conv = DepthWiseConv(channels)
        if self.local_channels:
            self.local_in = nn.Conv2d(channels, self.local_channels, 1)
            self.local = LocalStream(self.local_channels, norm_cfg)
            self.local_out = nn.Conv2d(self.local_channels, channels, 1)
        if self.global_channels:
            self.global_in = nn.Conv2d(channels, self.global_channels, 1)
            self.glob = GlobalStream(self.global_channels, num_heads, attn_drop_rate)
            # The sum of both streams has one bias.
            self.global_out = nn.Conv2d(self.global_channels, channels, 1, bias=not self.local_channels)
        self.align = None
        if self.local_channels and self.global_channels:
            if inter_scale_align:
                self.align = InterScaleAlignment(
                    self.local_channels, self.global_channels, num_heads, attn_drop_rate, norm_cfg
                )
            # Both halves of a convolution of C channels, which torch starts by the number of them.
            for parameter in (*self.local_out.parameters(), *self.global_out.parameters()):
                nn.init.uniform_(parameter, -(channels**-0.5), channels**-0.5)
        self.ffn = FeedForward(channels, hidden=int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Load older checkpoints, too."""
        split_projections(state_dict, prefix, self.local_channels, self.global_channels)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def branch_ends(self) -> list[nn.Conv2d]:
        """The last convolutions of all branches: where they are zero, the block is the identity."""
        joined = [module for name, module in self.named_children() if name in ('local_out', 'global_out')]
        return [self.pos_conv, *joined, self.ffn.fc2]

    def resize(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize ``(B, C, H, W)`` without antialiasing, as the public code does."""
        if self.global_ratio == 1:
            return x
        return F.interpolate(x, size=size, mode='bilinear', align_corners=False)

    def mix(self, x: Tensor) -> Tensor:
        """Split ``(B, C, H, W)``, propagate each stream at its scale, align the two, join them; same shape.

        A 1x1 convolution and a bilinear resize can be swapped without changing the result: the weights of the resize
        sum to one. So the global stream is projected where it is small: before its shrinking and behind its growing
        that would be the same at ``N`` positions instead of ``n``.
        """
        size = x.shape[2:]
        # max() in this order keeps the traced size, not the constant, in an exported graph.
        small = tuple(max(side // self.global_ratio, 1) for side in size)
        if self.local_channels:
            local = self.local(self.local_in(x))
        if self.global_channels:
            tokens = self.glob(to_tokens(self.global_in(self.resize(x, small))))
        if self.align is not None:
            local, tokens = self.align(local, tokens)
        if not self.global_channels:
            return self.local_out(local)
        glob = self.resize(self.global_out(to_map(tokens, small)), size)
        return self.local_out(local) + glob if self.local_channels else glob

    def _forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_conv(x)
        x = x + self.drop_path(self.mix(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        return recompute(self, self._forward, x) if self.with_cp and x.requires_grad else self._forward(x)
