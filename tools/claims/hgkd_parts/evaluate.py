"""What a frozen or fine-tuned encoder knows about the digits: ridge probe, and training on few labels."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .digits import HELD_OUT, place
from .models import BACKBONE

RIDGE = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
RATES = (2e-3, 5e-4)
Part = tuple[Tensor, Tensor]


def resnet(weights: dict[str, Tensor] | None) -> nn.Module:
    """Build mmpretrain's ResNet, random or with the weights of an exported student."""
    model = MODELS.build(dict(type='ResNet', **BACKBONE))
    model.init_weights()
    if weights is not None:
        model.load_state_dict(weights, strict=True)
    return model


@torch.no_grad()
def features(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean over positions of the maps ``(N, C, h, w)`` of centered digits: ``(N, C)``."""
    return torch.cat([encode(place(part, shift=False)).mean(dim=(2, 3)) for part in images.split(250)])


def ridge_probe(encode: Callable[[Tensor], Tensor], data: dict[str, Part]) -> float:
    """Accuracy on test of a ridge regression on frozen features of the 4,000 training digits.

    Features are standardized; the strength is chosen on the last 500 training digits, then all 4,000 are used.
    """
    x, y = features(encode, data['train'][0]).double(), F.one_hot(data['train'][1], 10).double()
    test = features(encode, data['test'][0]).double()
    mean, std = x.mean(dim=0), x.std(dim=0) + 1e-6
    x, test = (x - mean) / std, (test - mean) / std

    def accuracy(x: Tensor, y: Tensor, strength: float, inputs: Tensor, labels: Tensor) -> float:
        center = y.mean(dim=0)
        weight = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1]).double(), x.T @ (y - center))
        return ((inputs @ weight + center).argmax(dim=1) == labels).double().mean().item()

    held, labels = x[-HELD_OUT:], data['held_out'][1]
    best = max(RIDGE, key=lambda strength: accuracy(x[:-HELD_OUT], y[:-HELD_OUT], strength, held, labels))
    return accuracy(x, y, best, test, data['test'][1])


def few_labels(weights: dict[str, Tensor] | None, data: dict[str, Part], count: int, seed: int, epochs: int) -> float:
    """Accuracy on test after fine-tuning on ``count`` labels, as many of each class; see :func:`finetune`.

    The learning rate is chosen on 500 training digits that no arm is fine-tuned on.
    """
    images, labels = (part[:-HELD_OUT] for part in data['train'])
    generator = torch.Generator().manual_seed(1000 + seed)
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.cat([order[labels[order] == digit][: count // 10] for digit in range(10)])
    tried = [finetune(weights, (images[chosen], labels[chosen]), rate, seed, epochs) for rate in RATES]
    best = max(tried, key=lambda model: accuracy_of(model, data['held_out']))
    return accuracy_of(best, data['test'])


def finetune(weights: dict[str, Tensor] | None, part: Part, rate: float, seed: int, epochs: int) -> nn.Module:
    """Train encoder and a linear layer: AdamW, batches of 25 shifted digits, cosine from ``rate`` to 0."""
    torch.manual_seed(seed)
    model = nn.Sequential(resnet(weights), MODELS.build(dict(type='GlobalAveragePooling')), nn.Linear(64, 10))
    model[0].train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = epochs * max(1, len(part[0]) // 25)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        if step % max(1, len(part[0]) // 25) == 0:
            batches = torch.randperm(len(part[0])).split(25)
        batch = batches[step % len(batches)]
        loss = F.cross_entropy(logits(model, place(part[0][batch], shift=True)), part[1][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return model


def logits(model: nn.Sequential, images: Tensor) -> Tensor:
    """Scores ``(N, 10)`` of images ``(N, 3, 32, 32)``."""
    backbone, pool, linear = model
    return linear(pool(backbone(images)[-1:])[-1])


@torch.no_grad()
def accuracy_of(model: nn.Sequential, part: Part) -> float:
    """Share of right digits among centered ones."""
    model[0].eval()
    hits = [
        logits(model, place(images, shift=False)).argmax(dim=1) == labels
        for images, labels in zip(part[0].split(250), part[1].split(250), strict=True)
    ]
    return torch.cat(hits).double().mean().item()
