"""Photos in folders, ``{train,val}/<class>/*``: clothing10, CIFAR-10 as pictures, one's own."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments import ROOT

CLOTHING = ROOT / 'tests/data/clothing10'
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@lru_cache(maxsize=4)
def load_folder(folder: Path, size: int, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Read all images, squeezed to squares.

    Args:
        folder: Holds one folder a class; classes are numbered by name.
        size: Side in pixels.
        limit: Images a class, the first by name; default all.

    Returns:
        Images ``(n, 3, size, size)``, RGB, standardized by ImageNet's mean and deviation; labels ``(n)``.

    Raises:
        FileNotFoundError: No class with images.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    images, labels = [], []
    for label, path in enumerate(classes):
        for file in sorted(path.iterdir())[:limit]:
            image = mmcv.imread(str(file), channel_order='rgb')
            images.append(mmcv.imresize(image, (size, size), interpolation='area'))
            labels.append(label)
    if not images:
        raise FileNotFoundError(f'no images in {folder}/<class>/')
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    mean, deviation = torch.tensor([MEAN, STD]).view(2, 3, 1, 1)
    return ((x - mean) / deviation).contiguous(), torch.tensor(labels)


def flip_and_shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each image ``(n, 3, S, S)`` with probability a half, and move it by up to a twelfth of its side."""
    size, shift = x.shape[-1], x.shape[-1] // 12
    flipped = torch.rand(len(x), generator=generator) < 0.5
    x = F.pad(torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x), (shift,) * 4, mode='replicate')
    places = torch.randint(0, 2 * shift + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack([image[:, i : i + size, j : j + size] for image, (i, j) in zip(x, places, strict=True)])
