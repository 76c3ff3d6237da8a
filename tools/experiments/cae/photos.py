"""Photos in folders, ``{train,val}/<class>/*``: clothing10 of the tests; flowers5 and one's own by ``--data``."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.workloads.images import CLOTHING, MEAN, STD, flip_and_shift, load_folder


class Photos:
    """Images (n, 3, 48, 48) in [0, 1], RGB, and labels (n,); tested on the validation photos.

    Args:
        folder: Of the set; default: clothing10 of the tests.
    """

    side, patch, window, strides = 48, 8, 8, (1, 2, 2, 2)

    def __init__(self, folder: Path | None = None) -> None:
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) / 255 for values in (MEAN, STD))
        found = [load_folder((folder or CLOTHING) / part, self.side) for part in ('train', 'val')]
        (train, self.train_labels), (test, self.test_labels) = found
        self.train, self.test = (images * self.std + self.mean for images in (train, test))

    def normalize(self, images: Tensor) -> Tensor:
        """Standardize images for the student."""
        return (images - self.mean) / self.std

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Flip and move each image."""
        return flip_and_shift(images, generator)

    def pixels(self, images: Tensor) -> Tensor:
        """What stands for the raw image in the probes: means of 4 x 4 pixels, (n, 432)."""
        return F.avg_pool2d(images, 4).flatten(1)
