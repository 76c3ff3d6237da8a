"""Classification with one small network and different mixers, on a folder of images ``{train,val}/<class>/*``."""

from pathlib import Path

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

import mmplugins.spsa  # noqa: F401

# Heads of 8 channels. Depth-wise convolutions and 1x1 convolutions are the same in every arm. What mixes tokens is
# there twice: in the place of the gate as it is, where the rest of the block sees the mixture alone, and with the
# tokens added, as a transformer does it.
ARCH = dict(dims=(24, 48, 96), depths=(1, 1, 1))
MIXERS = {
    'Identity': None,
    'SPSA gate': dict(type='SPSA', head_dim=8),
    'SPSA agg': dict(type='SPSA', head_dim=8, mode='agg'),
    'SimAM': dict(type='SPSASimAM'),
    'SGE': dict(type='SPSASGE', head_dim=8),
    'MHSA': dict(type='SPSAMHSA', head_dim=8),
}
MIXERS.update({f'{name} + token': dict(type='SPSASkipMixer', mixer=MIXERS[name]) for name in ('SPSA agg', 'MHSA')})


def load_images(folder: Path, size: int, limit: int | None = None) -> tuple[Tensor, Tensor, list[str]]:
    """Read all images, squeezed to squares.

    Args:
        folder: Holds one folder a class.
        size: Side in pixels.
        limit: Images a class, the first by name; default all.

    Returns:
        Images ``(n, 3, size, size)``, RGB, standardized; labels ``(n)``; names of the classes.

    Raises:
        FileNotFoundError: No class with images.
    """
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    images, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).iterdir())[:limit]:
            image = mmcv.imread(str(path), channel_order='rgb')
            images.append(mmcv.imresize(image, (size, size), interpolation='area'))
            labels.append(label)
    if not images:
        raise FileNotFoundError(f'no images in {folder}/<class>/')
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    deviation = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    return ((x - mean) / deviation).contiguous(), torch.tensor(labels), classes


def build(mixer: str, classes: int) -> nn.Module:
    """Return the network of an arm: logits ``(n, classes)`` of images ``(n, 3, H, W)``."""
    backbone = MODELS.build(dict(type='mmpretrain.SPSANet', arch=ARCH, mixer=MIXERS[mixer]))

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone
            self.head = nn.Linear(ARCH['dims'][-1], classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x)[-1].mean((2, 3)))

    return Classifier()


def augment(x: Tensor, generator: torch.Generator, shift: int) -> Tensor:
    """Flip each image ``(n, 3, S, S)`` with probability a half, and move it by up to ``shift`` pixels."""
    size = x.shape[-1]
    flipped = torch.rand(len(x), generator=generator) < 0.5
    x = F.pad(torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x), (shift,) * 4, mode='replicate')
    places = torch.randint(0, 2 * shift + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack([image[:, i : i + size, j : j + size] for image, (i, j) in zip(x, places, strict=True)])


def train(mixer: str, seed: int, data: Path, size: int, epochs: int, limit: int | None = None) -> dict:
    """Train one arm and test it after the last epoch; nothing is chosen on the test images.

    The order of the images and the augmentation depend on the seed only. So do the weights at the start of the arms
    without parameters in the mixer; those of SGE and MHSA draw other random numbers.

    Returns:
        ``top1`` and ``train_top1`` in percent, ``parameters``, ``majority``: percentage of the most frequent class.
    """
    images, labels, classes = load_images(data / 'train', size, limit)
    test_images, test_labels, _ = load_images(data / 'val', size, limit)
    torch.manual_seed(seed)
    model = build(mixer, len(classes))
    generator = torch.Generator().manual_seed(seed)
    batch = min(50, len(images))
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps * epochs)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator)[: steps * batch].view(steps, batch):
            x = augment(images[chosen], generator, size // 12)
            loss = F.cross_entropy(model(x), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()

    @torch.no_grad()
    def top1(x: Tensor, y: Tensor) -> float:
        right = [(model(a).argmax(1) == b) for a, b in zip(x.split(100), y.split(100), strict=True)]
        return torch.cat(right).float().mean().item() * 100

    return dict(
        top1=top1(test_images, test_labels),
        train_top1=top1(images, labels),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        majority=test_labels.bincount().max().item() / len(test_labels) * 100,
        test_images=len(test_labels),
    )
