"""The arms: one small DS-Net with one stream, two, two that are aligned, and a wider one in place of the alignment."""

import torch
import torch.nn.functional as F
from mmengine.model import initialize
from torch import Tensor, nn

from mmplugins.dsnet import DSNet

ALIGNED = 'two streams, aligned'
ARMS = {
    'local only (alpha 0)': dict(split_ratio=0.0),
    'global only (alpha 1)': dict(split_ratio=1.0),
    'two streams': dict(inter_scale_align=False),
    'two streams, wider': dict(inter_scale_align=False, wider=True),
    ALIGNED: dict(),
}


class Classifier(nn.Module):
    """Logits ``(B, classes)`` of images ``(B, C, H, W)``.

    Args:
        arm: A key of ``ARMS``.
        arch: Of `DSNet`; ``wider`` in it are the ``embed_dims`` of the arm that has as many weights as the aligned one.
        in_channels: ``C``.
        classes: Number of classes.
    """

    def __init__(self, arm: str, arch: dict, in_channels: int, classes: int) -> None:
        super().__init__()
        options = dict(ARMS[arm])
        arch = dict(arch)
        wider = arch.pop('wider')
        if options.pop('wider', False):
            arch['embed_dims'] = wider
        self.backbone = DSNet(arch, in_channels, mlp_ratio=3, attn_drop_rate=0.0, drop_path_rate=0.0, **options)
        self.head = nn.Linear(arch['embed_dims'][-1], classes)
        initialize(self.backbone, self.backbone.init_cfg)  # as init_weights() does, without its log

    def forward(self, x: Tensor) -> Tensor:
        """Average the last map and classify it."""
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def fit(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, batch: int, seed: int, augment=None) -> None:
    """Train with AdamW on one cycle of the learning rate; the order of the images depends on the seed only."""
    generator = torch.Generator().manual_seed(seed)
    batch = min(batch, len(images))
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps * epochs)
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
