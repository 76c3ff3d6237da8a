"""How near a picture is to the image, by the formulas of PIE-Bench's own evaluation (arXiv 2310.01506).

Where only a part counts, the benchmark blackens the rest of both pictures and takes the whole: pixels that do not count
are equal, and still in the mean. So a value over a part is higher than the same errors over that part alone would give.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(picture: Tensor, mask: Tensor | None = None) -> Tensor:
    """A picture ``(3, H, W)`` in [-1, 1] as float64 in [0, 1]; black where ``mask`` ``(H, W)`` is true."""
    found = (picture.double() + 1) / 2
    return found if mask is None else found * ~mask.to(found.device)


def mse(picture: Tensor, image: Tensor, mask: Tensor | None = None) -> float:
    """Mean squared error of ``(3, H, W)`` in [-1, 1], of values from 0 to 1; nan where the mask leaves nothing.

    Args:
        picture: What is judged.
        image: What it should be.
        mask: ``(H, W)``, bool, true where pixels do not count.
    """
    if mask is not None and mask.all():
        return math.nan
    return (unit(picture, mask) - unit(image, mask)).square().mean().item()


def psnr(picture: Tensor, image: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB, of the same arguments as :func:`mse`; at most 100."""
    error = mse(picture, image, mask)
    return error if math.isnan(error) else -10 * math.log10(max(error, 1e-10))


def ssim(picture: Tensor, image: Tensor, mask: Tensor | None = None) -> float:
    """Structural similarity (Wang et al. 2004), mean over channels and places, of the same arguments as :func:`mse`.

    Gaussian window of 11 pixels and sigma 1.5, or the largest odd window that the picture holds.
    """
    if mask is not None and mask.all():
        return math.nan
    x, y = (unit(value, mask)[:, None] for value in (picture, image))
    width = min(11, *(side - (side + 1) % 2 for side in x.shape[2:]))
    place = torch.arange(width, dtype=torch.double) - width // 2
    line = torch.exp(-place.square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]
    mean_x, mean_y = F.conv2d(x, window), F.conv2d(y, window)
    var_x, var_y = F.conv2d(x * x, window) - mean_x**2, F.conv2d(y * y, window) - mean_y**2
    cov = F.conv2d(x * y, window) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return found.mean().item()
