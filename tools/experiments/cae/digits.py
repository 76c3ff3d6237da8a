"""Real handwritten digits of scikit-learn."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F


class Digits:
    """Images (n, 3, 12, 12) in [0, 1], three equal channels, and labels (n,), split 65 to 35 by class."""

    side, patch, window, strides = 12, 2, 4, (1, 2, 1, 1)

    def __init__(self, folder: Path | None = None) -> None:
        images, labels = load_digits(return_X_y=True)
        images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
        size = (self.side, self.side)
        images = F.interpolate(images, size=size, mode='bilinear', align_corners=False).expand(-1, 3, -1, -1)
        train, test = train_test_split(range(len(labels)), test_size=0.35, stratify=labels, random_state=0)
        labels = torch.tensor(labels)
        self.train, self.test = images[train], images[test]
        self.train_labels, self.test_labels = labels[train], labels[test]
        self.mean, self.std = self.train.mean(), self.train.std()

    def normalize(self, images: Tensor) -> Tensor:
        """Standardize images for the student."""
        return (images - self.mean) / self.std

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Roll each image by -1, 0 or 1 pixel in both directions."""
        steps = torch.randint(-1, 2, (len(images), 2), generator=generator)
        rows, columns = torch.arange(self.side)[:, None], torch.arange(self.side)[None]
        rows = (rows - steps[:, 0, None, None]) % self.side
        columns = (columns - steps[:, 1, None, None]) % self.side
        return images[torch.arange(len(images))[:, None, None], :, rows, columns].permute(0, 3, 1, 2)

    def pixels(self, images: Tensor) -> Tensor:
        """What stands for the raw image in the probes, (n, 144)."""
        return images.mean(1).flatten(1)
