"""Reference token mixers with the interface of `SPSA`, for controlled comparison in one network; importing registers.

Each maps ``(B, C, H, W)`` to the same shape and takes ``in_channels``: `SimAM` (Yang et al., ICML 2021), `SGE` (Li et
al., arXiv 1905.09646) and `MHSA`, softmax attention. Written from the formulas of the papers.

In mmengine's root registry, which all hosts and their users share, their names begin with ``SPSA``: ``SPSASimAM``, ….
"""

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn, ones, zeros

from mmplugins.spsa.layer import build_mixer, resolve_heads


def attention(x: Tensor, num_heads: int) -> Tensor:
    """Softmax attention of ``(B, C, H, W)`` without projections, by torch's fused kernel."""
    # Contiguous: the kernel takes no other channels, and without it the N x N matrices are formed.
    t = x.flatten(2).unflatten(1, (num_heads, -1)).transpose(-1, -2).contiguous()
    return F.scaled_dot_product_attention(t, t, t).transpose(-1, -2).reshape(x.shape)


@MODELS.register_module('SPSASimAM')
class SimAM(nn.Module):
    """Energy-based parameter-free attention: every value by its squared distance from the mean of its channel.

    Args:
        in_channels: Unused; every mixer is given it.
        e_lambda: The paper's coefficient, 1e-4.
    """

    _abbr_ = 'simam'

    def __init__(self, in_channels: int | None = None, e_lambda: float = 1e-4) -> None:
        super().__init__()
        self.e_lambda = e_lambda

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        positions = x.shape[2] * x.shape[3]
        squares = (x - x.mean((2, 3), keepdim=True)).pow(2)
        # The unbiased variance; one position alone has none.
        variance = squares.sum((2, 3), keepdim=True) / max(positions - 1, 1)
        return x * (squares / (4 * (variance + self.e_lambda)) + 0.5).sigmoid()


@MODELS.register_module('SPSASGE')
class SGE(nn.Module):
    """Spatial group-wise enhance: token times mean token, standardized over space, scaled, sigmoid; ``2h`` parameters.

    Args:
        in_channels: ``C``.
        num_heads: Number of groups; default: from ``head_dim``.
        head_dim: Channels of a group, default 16, as SPSA has it.
        eps: Added to the variance over space.
    """

    _abbr_ = 'sge'

    def __init__(
        self, in_channels: int, num_heads: int | None = None, head_dim: int | None = None, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.num_heads = resolve_heads(in_channels, num_heads, head_dim)
        self.eps = eps
        # The paper starts with zero and one: at first every gate is sigmoid(1).
        self.weight = nn.Parameter(zeros(1, self.num_heads, 1, 1, 1))
        self.bias = nn.Parameter(ones(1, self.num_heads, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        t = x.unflatten(1, (self.num_heads, -1))
        product = (t * t.mean((3, 4), keepdim=True)).sum(2, keepdim=True)
        product = product - product.mean((3, 4), keepdim=True)
        product = product * (product.square().mean((3, 4), keepdim=True) + self.eps).rsqrt()
        return (t * (product * self.weight + self.bias).sigmoid()).flatten(1, 2)


@MODELS.register_module('SPSAMHSA')
class MHSA(nn.Module):
    """Softmax attention over all positions, ``3C^2 + 3C`` parameters.

    No projection behind it: every block that a mixer is built into goes on with a 1x1 convolution.

    Args:
        in_channels: ``C``.
        num_heads: Number of heads; default: from ``head_dim``.
        head_dim: Channels of a head, default 16, as SPSA has it.
    """

    _abbr_ = 'mhsa'

    def __init__(self, in_channels: int, num_heads: int | None = None, head_dim: int | None = None) -> None:
        super().__init__()
        self.num_heads = resolve_heads(in_channels, num_heads, head_dim)
        self.qkv = nn.Conv2d(in_channels, 3 * in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        tokens = self.qkv(x).flatten(2).unflatten(1, (3, self.num_heads, -1)).transpose(-1, -2)
        # Contiguous: torch's fused kernel takes no other channels, and without it the N x N matrices are formed.
        q, k, v = tokens.contiguous().unbind(1)
        return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).flatten(1, 2).view_as(x)


@MODELS.register_module('SPSASkipMixer')
class SkipMixer(nn.Module):
    """A mixer and, added to it, the tokens themselves, for those that mix tokens and do not keep them.

    `SPSANet`'s blocks have no residual around the mixer: a gate needs none.

    Args:
        in_channels: ``C``.
        mixer: Config of the mixer; it is given ``in_channels``.
    """

    _abbr_ = 'skip'

    def __init__(self, in_channels: int, mixer: dict) -> None:
        super().__init__()
        self.mixer = build_mixer(mixer, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        return x + self.mixer(x)
