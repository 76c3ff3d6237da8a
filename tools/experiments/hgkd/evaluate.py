"""What a frozen or fine-tuned encoder knows about the digits: ridge probe, and training on few labels."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from experiments.hgkd.digits import HELD_OUT, Part, place
from experiments.hgkd.students import BACKBONE
from experiments.workloads.classify import choose, top1

RIDGE = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
RATES = (2e-3, 5e-4)
LABELS = 50


def classifier(weights: dict[str, Tensor] | None) -> nn.Module:
    """Build mmpretrain's classifier on its ResNet, random or with the weights of an exported student."""
    head = dict(type='LinearClsHead', num_classes=10, in_channels=64)
    backbone = dict(type='ResNet', **BACKBONE)
    model = MODELS.build(
        dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)
    )
    model.backbone.init_weights()
    if weights is not None:
        model.backbone.load_state_dict(weights, strict=True)
    return model


@torch.no_grad()
def features(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean over positions of the maps ``(N, C, h, w)`` of images: ``(N, C)``."""
    return torch.cat([encode(part).mean(dim=(2, 3)) for part in images.split(250)]).double()


def ridge_probe(encode: Callable[[Tensor], Tensor], data: dict[str, Part]) -> float:
    """Test accuracy in percent of a ridge regression on frozen features of the training digits."""
    train, test = ((place(images, shift=False), labels) for images, labels in (data['train'], data['test']))
    return ridge(encode, train, test, HELD_OUT)


def ridge(encode: Callable[[Tensor], Tensor], train: Part, test_part: Part, held: int) -> float:
    """Test accuracy in percent of a ridge regression on frozen features.

    Features are standardized; the strength is chosen on a part of the training images, then all are used.

    Args:
        encode: Images ``(N, C, H, W)`` to maps ``(N, D, h, w)``.
        train: Images and labels ``(N)``, in random order.
        test_part: Images and labels.
        held: The last so many training images are the part.
    """
    x, y = features(encode, train[0]), F.one_hot(train[1]).double()
    test = features(encode, test_part[0])
    mean, std = x.mean(dim=0), x.std(dim=0) + 1e-6
    x, test = (x - mean) / std, (test - mean) / std

    def accuracy(x: Tensor, y: Tensor, strength: float, inputs: Tensor, labels: Tensor) -> float:
        center = y.mean(dim=0)
        weight = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1]).double(), x.T @ (y - center))
        return ((inputs @ weight + center).argmax(dim=1) == labels).double().mean().item() * 100

    kept, held_labels = len(x) - held, train[1][-held:]
    best = max(RIDGE, key=lambda strength: accuracy(x[:kept], y[:kept], strength, x[kept:], held_labels))
    return accuracy(x, y, best, test, test_part[1])


def few_labels(weights: dict[str, Tensor] | None, data: dict[str, Part], seed: int, epochs: int) -> float:
    """Test accuracy in percent after fine-tuning on 50 labels, five of each class.

    The learning rate is chosen on the held-out training digits, which no arm is fine-tuned on.
    """
    images, labels = (part[:-HELD_OUT] for part in data['train'])
    chosen = choose(labels, LABELS // 10, seed)
    held, test = ((place(images, shift=False), labels) for images, labels in (data['held_out'], data['test']))
    tried = [finetune(weights, images[chosen], labels[chosen], rate, seed, epochs) for rate in RATES]
    return top1(max(tried, key=lambda model: top1(model, *held)), *test)


def finetune(
    weights: dict[str, Tensor] | None, images: Tensor, labels: Tensor, rate: float, seed: int, epochs: int
) -> nn.Module:
    """Train encoder and a linear layer: AdamW, batches of 25 shifted digits, cosine from ``rate`` to 0."""
    torch.manual_seed(seed)
    model = classifier(weights)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(images) // 25)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(25):
            loss = F.cross_entropy(model(place(images[batch], shift=True)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return model
