"""Train a small classifier and test it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.workloads.images import flip_and_shift, load_folder

FOLDS = 5


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> None:
    """Train with AdamW on one cycle of the learning rate.

    The order of the images and the augmentation depend on the seed only, so that arms see the same.

    Args:
        model: Logits ``(n, classes)`` of images ``(n, C, H, W)``.
        images: ``(N, C, H, W)``.
        labels: ``(N)``.
        epochs: Length; images that fill no batch are left out of an epoch.
        batch: Size, at most ``N``.
        lr: Highest learning rate.
        seed: Of order and augmentation; weights are drawn before.
        augment: ``augment(images, generator)``.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = min(batch, len(images))
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps * epochs)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator)[: steps * batch].view(steps, batch):
            x = images[chosen] if augment is None else augment(images[chosen], generator)
            loss = F.cross_entropy(model(x), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    model.eval()
    right = [model(x).argmax(1) == y for x, y in zip(images.split(100), labels.split(100), strict=True)]
    return torch.cat(right).float().mean().item() * 100


def count(model: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in model.parameters())


def classify_photos(
    build: Callable[[int], nn.Module],
    seed: int,
    data: Path,
    *,
    size: int,
    epochs: int,
    lr: float,
    limit: int | None = None,
) -> dict:
    """Train a network on four fifths of all photos and test it on the others; nothing is chosen on those.

    The seed says which fifth, so that five seeds in a row test on every photo once.

    Args:
        build: ``build(classes)`` makes it; drawn under the seed.
        seed: Of weights, order and augmentation; modulo five, the number of the fold.
        data: ``{train,val}/<class>/*``, both together.
        size: Side in pixels.
        epochs: Length.
        lr: Highest learning rate.
        limit: Images a class.

    Returns:
        ``top1`` and ``majority`` (always the most frequent class) in percent, ``parameters``, ``images`` in all folds.
    """
    parts = [load_folder(data / part, size, limit) for part in ('train', 'val')]
    images, labels = (torch.cat(both) for both in zip(*parts, strict=True))
    test = torch.arange(len(labels)) % FOLDS == seed % FOLDS  # the photos are sorted by class
    images, labels, test_images, test_labels = images[~test], labels[~test], images[test], labels[test]
    torch.manual_seed(seed)
    model = build(int(labels.max()) + 1)
    fit(model, images, labels, epochs=epochs, batch=50, lr=lr, seed=seed, augment=flip_and_shift)
    return dict(
        top1=top1(model, test_images, test_labels),
        parameters=count(model),
        majority=test_labels.bincount().max().item() / len(test_labels) * 100,
        images=len(test),
    )
