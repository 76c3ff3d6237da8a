"""Parameter-free self-attention on feature maps, as functions.

After "Simple parameter-free self-attention approximation" (Zhai et al., arXiv 2023). Only its abstract could be found,
and no code; the formulas are our reconstruction from that abstract and from the abstract of a second submission that
describes the same idea, "global spatial correlation attention" (OpenReview WSIHedvwmru). Nothing here is copied.

Shapes: images ``B``, channels ``C = h*d`` of ``h`` heads with ``d`` channels each (contiguous groups), positions of
any number of axes ``...`` (``H, W`` of a map, ``N`` of a sequence), ``N`` positions in all. With ``P(u)`` = ``u``
centered over its ``d`` channels and divided by ``sqrt(|u - mean(u)|^2 + eps)``, the inner product ``<P(u), P(v)>`` is
the Pearson correlation of ``u`` and ``v``; queries, keys and values are all the tokens ``t`` themselves.

Nothing is transposed: views and reductions over the channels of a head do for any memory format, channels-last too.
Autograd saves the input, the centered tokens, and maps of one number a head and position. In fp32 magnitudes up to 1e18
are right; from 1e19 to 1e36 squares are infinite and correlations 0.
"""

import torch
from torch import Tensor

ACTS = ('one_plus', 'sigmoid', 'raw', 'softmax')
KEYS = ('gap', 'mean_normed')
HALF_MAX = torch.finfo(torch.float16).max


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """View ``(B, C, ...)`` as ``(B, h, d, ...)``, in at least fp32: statistics of half precision are too coarse."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    # For the tracing ONNX exporter: unflatten() would fix the batch size; the channels have to be a number.
    return x.view(x.shape[0], num_heads, int(x.shape[1]) // num_heads, *x.shape[2:])


def center(t: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Center each token of ``(B, h, d, ...)``.

    Args:
        t: Tokens.
        eps: Added to the squared norms.

    Returns:
        ``t_i - mean(t_i)``, of the shape of ``t``, and ``1 / sqrt(|t_i - mean(t_i)|^2 + eps)``, ``(B, h, 1, ...)``.
    """
    # A copy of the map, and up to a quarter of the gate's time more than a sum of squares minus a squared sum: that is
    # off by 0.01 in fp32 where the channels of a token have a common offset of 100 times their spread, by 1 from 1000.
    centered = t - t.mean(2, keepdim=True)
    return centered, (centered * centered).sum(2, keepdim=True).add_(eps).rsqrt_()


def saliency(x: Tensor, num_heads: int, key: str = 'gap', eps: float = 1e-6) -> Tensor:
    """Pearson correlation of every token with one key vector per image and head.

    It is exactly the row sum of the full ``N x N`` matrix of correlations ``S_ij = <P(t_i), P(t_j)>``, in ``O(NC)``:
    with ``key='gap'`` of its columns weighted by ``w_j / Z``, ``w_j = |t_j - mean(t_j)|``, ``Z = |sum_j w_j P(t_j)|``;
    with ``key='mean_normed'`` the mean, ``sum_j S_ij / N``.

    Args:
        x: ``(B, C, ...)``.
        num_heads: ``h``, divides ``C``.
        key: ``gap``: ``P`` of the average token; ``mean_normed``: the average of ``P(t_j)``, not normalized again.
        eps: Added to the squared norms, so that constant tokens give 0 and finite gradients.

    Returns:
        ``(B, h, 1, ...)`` in [-1, 1], in fp32 if ``x`` is of half precision.
    """
    return head_saliency(split_heads(x, num_heads), key, eps)


def head_saliency(t: Tensor, key: str, eps: float) -> Tensor:
    """`saliency` of tokens that are split into heads, ``(B, h, d, ...)``."""
    positions = tuple(range(3, t.dim()))
    centered, inverse = center(t, eps)
    if key == 'gap':
        vector = centered.mean(positions, keepdim=True)
        # From 1e19 on the square is infinite, so the vector and with it the correlation are 0.
        vector = vector * (vector.square().sum(2, keepdim=True) + eps).rsqrt()
    else:
        vector = (centered * inverse).mean(positions, keepdim=True)
    # Rounding: `inverse` is large for a token of nearly equal channels.
    return (centered * vector).sum(2, keepdim=True).mul_(inverse).clamp_(-1, 1)


def activate(rho: Tensor, act: str = 'one_plus') -> Tensor:
    """Turn correlations ``(B, h, 1, ...)`` into gates of the same shape.

    Args:
        rho: What `saliency` returns.
        act: ``one_plus``: ``1 + rho``, in [0, 2], the first-order exponential; ``sigmoid``, in [0.269, 0.731];
            ``raw``: ``rho``; ``softmax``: over the positions, times ``N``, so that the mean gate is 1.
    """
    if act == 'one_plus':
        return rho + 1
    if act == 'sigmoid':
        return rho.sigmoid()
    if act == 'softmax':
        weight = rho.exp()  # correlations are at most 1: no need to subtract the largest
        return weight / weight.mean(tuple(range(3, rho.dim())), keepdim=True)
    return rho


def spsa_gate(x: Tensor, num_heads: int, act: str = 'one_plus', key: str = 'gap', eps: float = 1e-6) -> Tensor:
    """Multiply every token by a function of its correlation with the key vector; about ``4NC`` multiplications.

    Args:
        x: ``(B, C, ...)``.
        num_heads: ``h``, divides ``C``.
        act: See `activate`.
        key: See `saliency`.
        eps: See `saliency`.

    Returns:
        ``(B, C, ...)`` in the type of ``x``.
    """
    t = split_heads(x, num_heads)
    rho = head_saliency(t, key, eps)
    # The default in one pass over the map.
    y = torch.addcmul(t, t, rho) if act == 'one_plus' else t * activate(rho, act)
    if x.dtype == torch.float16:  # twice 32,752 and more is none
        y = y.clamp(-HALF_MAX, HALF_MAX)
    return (y if y.dtype == x.dtype else y.to(x.dtype)).view_as(x)


def spsa_agg(x: Tensor, num_heads: int, eps: float = 1e-6) -> Tensor:
    """Attention with the kernel ``1 + S_ij`` in place of ``exp(S_ij)``, ``2NCd`` multiplications.

    ``y_i = sum_j (1 + S_ij) t_j / sum_j (1 + S_ij)``, evaluated from the right: the sum over ``j`` of ``P(t_j) t_j^T``
    is one ``d x d`` matrix a head. Not in the paper's abstract; ours, for who wants outputs close to attention.

    Args:
        x: ``(B, C, ...)``.
        num_heads: ``h``, divides ``C``.
        eps: As in `saliency`, also added to the denominator, which is 0 only if all correlations are -1.

    Returns:
        ``(B, C, ...)`` in the type of ``x``.
    """
    t = split_heads(x, num_heads).flatten(3)
    # Under autocast the products would be of half precision again.
    with torch.autocast(x.device.type, enabled=False):
        centered, inverse = center(t, eps)
        p = centered * inverse
        # Means over the tokens, not sums: numerator and denominator are divided by N.
        mixed = t.mean(3, keepdim=True) + (t @ p.transpose(2, 3) / t.shape[3]) @ p
        weight = 1 + p.mean(3, keepdim=True).transpose(2, 3) @ p
        y = mixed / (weight + eps)
    return y.to(x.dtype).view(x.shape)
