"""The levels between encoder and decoder, as in SparK (arXiv 2301.03580, sec. 3.3): found, and what each goes through.

Legend: ``B`` images, ``C_i`` channels of level ``i``, 0 the deepest, ``f`` pixels along the side of a mask cell.
"""

from collections.abc import Sequence

import torch
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from .sparse.layers import to_active


def level_channels(maps: Sequence[Tensor], side: int, cell: int) -> list[int]:
    """Return the channels of each level.

    Args:
        maps: ``(B, C_i, H_i, W_i)`` that the backbone gives for a square image, the deepest level first.
        side: Of the image, in pixels.
        cell: ``f``.

    Raises:
        ValueError: These are no maps, or their strides are not ``f``, ``f / 2``, ``f / 4`` …
    """
    if any(level.dim() != 4 for level in maps):
        raise ValueError('the backbone must give maps (B, C, H, W): set gap_before_output=False')
    strides = [side / level.shape[2] for level in maps]
    if strides != [cell / 2**i for i in range(len(maps))]:
        raise ValueError(
            f'the maps of the backbone have strides {strides[::-1]}, the largest map first; with downsample_raito='
            f'{cell} the last must be {cell} and each the double of the one before: set out_indices of the '
            'backbone, or downsample_raito and upsample_ratio of the neck to its deepest stride'
        )
    return [level.shape[1] for level in maps]


def make_levels(
    channels: Sequence[int], feature_dim: int, norm_cfg: dict
) -> tuple[nn.ModuleList, nn.ModuleList, nn.ParameterList]:
    """Return norm, projection and mask token of each level.

    Args:
        channels: ``C_i``.
        feature_dim: Channels of the decoder at level 0, halved at each next one.
        norm_cfg: Of the norms, over visible sites.
    """
    norms, projectors, tokens = nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
    for level, width in enumerate(channels):
        norms.append(to_active(build_norm_layer(norm_cfg, width)))
        wanted, kernel = feature_dim // 2**level, 1 if level == 0 else 3
        same = level == 0 and width == wanted
        projectors.append(nn.Identity() if same else nn.Conv2d(width, wanted, kernel, padding=kernel // 2))
        token = nn.Parameter(torch.zeros(1, width, 1, 1))
        tokens.append(trunc_normal_(token, mean=0, std=0.02, a=-0.02, b=0.02))
    return norms, projectors, tokens
