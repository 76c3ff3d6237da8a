"""Two frozen targets that are fitted to a set: a small CNN and a codebook."""

from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.cae.digits import Digits
from experiments.cae.photos import Photos
from mmplugins.cae.targets.codebook import fit_kmeans, windows_of
from mmplugins.utils.atomic import replacing


@MODELS.register_module()
class LabelCNNTeacher(BaseModule):
    """Stands for CLIP: a CNN trained on the labels. (B, 3, S, S) in [0, 1] to (B, 1 + 36, 64), CLS is the mean.

    Like CLIP's tower it ends in a normalization. Bare outputs of a ReLU all point into the same orthant, and there a
    constant comes close to any target in cosine: the students learned little from those.

    Args:
        strides: Of its four convolutions; what they leave of the side must be 6.
        num_classes: Of the set.
    """

    def __init__(self, strides: tuple[int, ...], num_classes: int = 10, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        layers, channels = [], 3
        for width, stride in zip((32, 64, 64, 64), strides, strict=True):
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.net, self.fc = nn.Sequential(*layers), nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, 1 + 36, 64)."""
        tokens = self.net(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        return F.layer_norm(tokens, tokens.shape[-1:])


def fit_teacher(data: Digits | Photos, path: Path, epochs: int = 30) -> float:
    """Train the teacher, write its weights, return its test accuracy."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = LabelCNNTeacher(data.strides, int(data.train_labels.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = epochs * (len(data.train) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train), generator=generator).split(64)[: steps // epochs]:
            logits = model.fc(model(data.augment(data.train[rows], generator))[:, 0])
            loss = F.cross_entropy(logits, data.train_labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model.fc(model(data.test)[:, 0]).argmax(1) == data.test_labels).float().mean().item()
    with replacing(path) as temporary:
        torch.save(model.state_dict(), temporary)
    return accuracy


def fit_tokenizer(data: Digits | Photos, path: Path, num_tokens: int = 64) -> None:
    """Fit the codebook of CAE v1 to windows around each patch, and write it as the plugin reads it."""
    centers = fit_kmeans(windows_of(data.train, data.patch, data.window).flatten(0, 1), num_tokens)
    with replacing(path) as temporary:
        np.savez(temporary, centers=centers.numpy(), patch_size=data.patch, window=data.window)
