"""1x1 convolutions, three quarters of the multiplications of a DS-Block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmplugins.utils.onednn import is_captured

ONEDNN = torch.backends.mkldnn.is_available()


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1x1 convolution of ``(B, C, H, W)``.

    On a CPU with one thread torch leaves 1x1 convolutions of fewer than 16 images to BLAS, which on AMD processors is
    half as fast as oneDNN. A dilated convolution always goes to oneDNN, and a single weight cannot be dilated: the
    result is the same. (Not so maps of 20,480 elements or less, for which torch has only a slow dilated convolution.)
    """
    dilated = ONEDNN and not is_captured() and x.is_cpu and x.numel() > 20480
    return F.conv2d(x, weight, bias, dilation=2 if dilated else 1)


class Pointwise(nn.Conv2d):
    """1x1 convolution by `pointwise`.

    Args:
        in_channels: Of the map.
        out_channels: Of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return pointwise(x, self.weight, self.bias)
