"""Targets that need no file: tokens of a codebook, pixels, histograms of gradients.

Not in the papers, which take DALL-E's tokens (CAE; ``DALLETokenTarget``) and CLIP's features (CAE v2). All are
modules from target images to ``(B, N)`` ids, ``(B, N, C)`` or ``(B, 1 + N, C)`` values, patches in raster order.

Shapes: ``B`` images, ``N`` patches, ``K`` tokens, ``C`` channels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.model import BaseModule
from mmpretrain.models.selfsup import HOGGenerator
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from .codebook import load_codebook, nearest, windows_of
from .precision import SinglePrecision


@MODELS.register_module()
class KMeansTokenTarget(SinglePrecision, BaseModule):
    """Token of a patch: the nearest center of a codebook. ``(B, C, H, W)`` RGB in [0, 1] to ids ``(B, N)``.

    Images in [0, 1] are what ``TwoNormDataPreprocessor`` gives with ``second_mean=[0, 0, 0]`` and
    ``second_std=[255, 255, 255]``.

    Args:
        codebook: A file of :func:`fit_codebook`, or the name of one that comes with the plugin.
        init_cfg: Not needed.
    """

    def __init__(self, codebook: str | Path, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        centers, self.patch_size, self.window = load_codebook(codebook)
        self.register_buffer('centers', centers)

    @property
    def num_tokens(self) -> int:
        """``K``, which is ``num_classes`` of the neck."""
        return len(self.centers)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return ids ``(B, N)`` of images ``(B, C, H, W)``.

        Raises:
            ValueError: The codebook is for another number of channels.
        """
        if x.size(1) * self.window**2 != self.centers.size(1):
            channels = self.centers.size(1) // self.window**2
            raise ValueError(f'images of {x.size(1)} channels for a codebook of {channels}: fit one to such images')
        with torch.autocast(x.device.type, enabled=False):  # half precision would mix up near centers
            windows = windows_of(x.float(), self.patch_size, self.window)
            return torch.stack([nearest(image, self.centers) for image in windows])

    def patches(self, ids: Tensor) -> Tensor:
        """Return the pixels ``(…, C, patch, patch)`` in [0, 1] that ids ``(…)`` stand for."""
        margin = (self.window - self.patch_size) // 2
        pixels = self.centers[ids].unflatten(-1, (-1, self.window, self.window))
        return pixels[..., margin : margin + self.patch_size, margin : margin + self.patch_size]


@MODELS.register_module()
class PixelTarget(BaseModule):
    """Pixels of each patch. ``(B, C, H, W)`` to ``(B, N, C p p)``, channels first within a patch.

    Args:
        patch_size: ``p``.
        normalize: Subtract the mean of a patch and divide by its deviation, as MAE does.
        init_cfg: Not needed.
    """

    def __init__(self, patch_size: int = 16, normalize: bool = True, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.patch_size, self.normalize = patch_size, normalize

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, N, C p p)`` of images ``(B, C, H, W)``."""
        patches = windows_of(x.float(), self.patch_size, self.patch_size)
        if self.normalize:
            variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
            patches = (patches - mean) / (variance + 1e-6).sqrt()
        return patches

    def denormalize(self, pred: Tensor, x: Tensor) -> Tensor:
        """Give predictions ``(B, N, C p p)`` the mean and deviation of the patches of images ``(B, C, H, W)``."""
        if not self.normalize:
            return pred
        variance, mean = torch.var_mean(windows_of(x.float(), self.patch_size, self.patch_size), dim=-1, keepdim=True)
        return pred * (variance + 1e-6).sqrt() + mean


@MODELS.register_module()
class HOGTarget(SinglePrecision, HOGGenerator):
    """Histograms of gradients of each patch, for CAE v2 where no image encoder is at hand.

    The host's (MaskFeat) is for grids of 14 x 14 and images of 224 pixels. CLS is the mean of the patches.

    Args:
        patch_size: Pixels, a multiple of ``pool``.
        nbins: Directions.
        pool: Pixels of a cell. ``C = 3 * nbins * (patch_size / pool)^2``.
    """

    def __init__(self, patch_size: int = 16, nbins: int = 9, pool: int = 8) -> None:
        if patch_size % pool:
            raise ValueError(f'cells of {pool} pixels do not divide patches of {patch_size}')
        # No weighting by a Gaussian: the host's needs square images, and its multiples.
        super().__init__(nbins=nbins, pool=pool, gaussian_window=0)
        self.patch_size = patch_size

    def _reshape(self, hog_feat: Tensor) -> Tensor:
        """Turn cells ``(B, 3, nbins, H / pool, W / pool)`` into ``(B, 1 + N, C)``."""
        cells = self.patch_size // self.pool
        patches = F.unfold(hog_feat.flatten(1, 2), cells, stride=cells).transpose(1, 2)
        return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 1 + N, C)`` of images ``(B, 3, H, W)``."""
        if x.size(1) != 3:
            raise ValueError(f'images of {x.size(1)} channels; histograms of gradients are made of three')
        if any(side % self.patch_size for side in x.shape[-2:]):
            raise ValueError(f'patches of {self.patch_size} pixels do not divide images of shape {tuple(x.shape)}')
        with torch.autocast(x.device.type, enabled=False):  # the host's scatter wants one type
            return super().forward(x.float())
