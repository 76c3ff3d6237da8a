"""Weights of a convolution in torch's order and in that of spconv's layers.

Legend: ``K`` output channels, ``C`` input channels, ``R, S`` sides of the kernel.
"""

from torch import Tensor


def to_spconv(weight: Tensor) -> Tensor:
    """Turn ``(K, C, R, S)`` of torch into the weight of spconv 2.2 and later.

    Returns:
        ``(K, R, S, C)``; of a 1x1 kernel spconv prints that shape, but reads the memory as ``(C, K)``.
    """
    if weight.shape[2:] == (1, 1):
        return weight.flatten(1).t().contiguous().view(weight.size(0), 1, 1, weight.size(1))
    return weight.permute(0, 2, 3, 1).contiguous()


def from_spconv(weight: Tensor) -> Tensor:
    """Turn ``(K, R, S, C)`` of spconv 2.2 and later into ``(K, C, R, S)`` of torch; undoes ``to_spconv``."""
    if weight.shape[1:3] == (1, 1):
        return weight.reshape(weight.size(3), weight.size(0)).t().contiguous()[:, :, None, None]
    return weight.permute(0, 3, 1, 2).contiguous()
