"""Train a small classifier and test it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mmcv
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.workloads.images import flip_and_shift, load_folder

FOLDS = 5
LARGE = 10_000  # photos for training; of 10,000 in the test split one standard error is half a point or less


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
    watch: Callable[[int], None] | None = None,
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
        watch: ``watch(steps)`` is called after each epoch with the number of steps until then.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = min(batch, len(images))
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps * epochs)
    for epoch in range(1, epochs + 1):
        model.train()
        for chosen in torch.randperm(len(images), generator=generator)[: steps * batch].view(steps, batch):
            x = images[chosen] if augment is None else augment(images[chosen], generator)
            loss = F.cross_entropy(model(x), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if watch:
            watch(epoch * steps)


@torch.no_grad()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    model.eval()
    right = [model(x).argmax(1) == y for x, y in zip(images.split(100), labels.split(100), strict=True)]
    return torch.cat(right).float().mean().item() * 100


def choose(labels: Tensor, each: int, seed: int) -> Tensor:
    """Return the places of ``each`` images of each class, ``(n)``, drawn under the seed."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1000 + seed))
    return torch.cat([order[labels[order] == kind][:each] for kind in range(int(labels.max()) + 1)])


def count(model: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class Plan:
    """How a set of photos is trained on.

    Attributes:
        size: Side in pixels.
        epochs: Length.
        batch: Size.
        folds: Whether the parts are put together and divided anew, a fifth to test on for each seed; else ``train`` and
            ``val`` are what they are called, for every seed.
        photos: In ``train``.
    """

    size: int
    epochs: int
    batch: int
    folds: bool
    photos: int


def plan_of(data: Path, size: int, epochs: int) -> Plan:
    """Plan for a set by its size: a large one has enough photos to test on, and takes more steps in fewer epochs.

    Args:
        data: ``{train,val}/<class>/*``.
        size: Side in pixels; smaller photos keep their own.
        epochs: Length, for a set that is not large.

    Raises:
        FileNotFoundError: No photos in ``train``.
    """
    files = list((data / 'train').glob('*/*'))
    if not files:
        raise FileNotFoundError(f'no images in {data}/train/<class>/')
    large = len(files) >= LARGE
    own = min(mmcv.imread(str(files[0])).shape[:2])
    return Plan(min(size, own), 20 if large else epochs, 128 if large else 50, not large, len(files))


def load_parts(data: Path, plan: Plan, seed: int, limit: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images ``(n, 3, size, size)`` and labels ``(n)`` to train on, then those to test on."""
    (images, labels), (test_images, test_labels) = (
        load_folder(data / part, plan.size, limit) for part in ('train', 'val')
    )
    if not plan.folds:
        return images, labels, test_images, test_labels
    images, labels = torch.cat([images, test_images]), torch.cat([labels, test_labels])
    test = torch.arange(len(labels)) % FOLDS == seed % FOLDS  # the photos are sorted by class
    return images[~test], labels[~test], images[test], labels[test]


def classify_photos(
    build: Callable[[int], nn.Module], seed: int, data: Path, *, plan: Plan, lr: float, limit: int | None = None
) -> dict:
    """Train a network on photos and test it on others; nothing is chosen on those.

    Of a small set the seed says which fifth is tested on, so that five seeds in a row test on every photo once.

    Args:
        build: ``build(classes)`` makes it; drawn under the seed.
        seed: Of weights, order and augmentation; modulo five, the number of the fold.
        data: ``{train,val}/<class>/*``.
        plan: See `plan_of`.
        lr: Highest learning rate.
        limit: Images a class and part.

    Returns:
        ``top1`` and ``majority`` (always the most frequent class) in percent, ``parameters``; ``tested``, in words.
    """
    images, labels, test_images, test_labels = load_parts(data, plan, seed, limit)
    torch.manual_seed(seed)
    model = build(int(labels.max()) + 1)
    fit(model, images, labels, epochs=plan.epochs, batch=plan.batch, lr=lr, seed=seed, augment=flip_and_shift)
    number = len(labels) + len(test_labels)
    return dict(
        top1=top1(model, test_images, test_labels),
        parameters=count(model),
        majority=test_labels.bincount().max().item() / len(test_labels) * 100,
        tested=f'{number:,} photos in {FOLDS} folds' if plan.folds else f'{len(test_labels):,} photos',
    )
