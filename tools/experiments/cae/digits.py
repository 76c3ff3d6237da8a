"""Real handwritten digits (scikit-learn), and two frozen targets fitted to them: a small CNN and a codebook."""

from pathlib import Path

import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from mmplugins.cae.targets.codebook import fit_kmeans, windows_of
from mmplugins.utils.atomic import replacing

SIDE, PATCH, GRID = 12, 2, 6


class Digits:
    """Images (n, 3, 12, 12) in [0, 1], three equal channels, and labels (n,), split 65 to 35 by class."""

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
        images = F.interpolate(images, size=(SIDE, SIDE), mode='bilinear', align_corners=False).expand(-1, 3, -1, -1)
        train, test = train_test_split(range(len(labels)), test_size=0.35, stratify=labels, random_state=0)
        labels = torch.tensor(labels)
        self.train, self.test = images[train], images[test]
        self.train_labels, self.test_labels = labels[train], labels[test]
        self.mean, self.std = self.train.mean(), self.train.std()

    def normalize(self, images: Tensor) -> Tensor:
        """Standardize images for the student."""
        return (images - self.mean) / self.std


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Roll each image by -1, 0 or 1 pixel in both directions."""
    steps = torch.randint(-1, 2, (len(images), 2), generator=generator)
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)[None]
    rows, columns = (rows - steps[:, 0, None, None]) % SIDE, (columns - steps[:, 1, None, None]) % SIDE
    return images[torch.arange(len(images))[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


@MODELS.register_module()
class DigitsTeacher(BaseModule):
    """Stands for CLIP: a CNN trained on the labels. (B, 3, 12, 12) in [0, 1] to (B, 1 + 36, 64), CLS is the mean.

    Like CLIP's tower it ends in a normalization. Bare outputs of a ReLU all point into the same orthant, and there a
    constant comes close to any target in cosine: the students learned little from those.
    """

    def __init__(self, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        layers, channels = [], 3
        for width, stride in ((32, 1), (64, 2), (64, 1), (64, 1)):
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.net, self.fc = nn.Sequential(*layers), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, 1 + 36, 64)."""
        tokens = self.net(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        return F.layer_norm(tokens, tokens.shape[-1:])


def fit_teacher(digits: Digits, path: Path, epochs: int = 30) -> float:
    """Train the teacher, write its weights, return its test accuracy."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = DigitsTeacher()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = epochs * (len(digits.train) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(digits.train), generator=generator).split(64)[: steps // epochs]:
            logits = model.fc(model(shift(digits.train[rows], generator))[:, 0])
            loss = F.cross_entropy(logits, digits.train_labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model.fc(model(digits.test)[:, 0]).argmax(1) == digits.test_labels).float().mean().item()
    with replacing(path) as temporary:
        torch.save(model.state_dict(), temporary)
    return accuracy


def fit_tokenizer(digits: Digits, path: Path, num_tokens: int = 64) -> None:
    """Fit the codebook of CAE v1 to 4 x 4 windows around each patch, and write it as the plugin reads it."""
    import numpy as np

    centers = fit_kmeans(windows_of(digits.train, PATCH, 4).flatten(0, 1), num_tokens)
    with replacing(path) as temporary:
        np.savez(temporary, centers=centers.numpy(), patch_size=PATCH, window=4)
