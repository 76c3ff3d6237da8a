"""The arms: pretraining of small students through the plugin's registered modules, and probes of what they learned."""

from pathlib import Path

import numpy as np
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from experiments.cae.digits import GRID, PATCH, SIDE, Digits, shift
from mmplugins.cae import InclusiveBlockMask

# Name -> method, what differs. Steps are multiples of 18, an epoch of batches of 64.
ARMS = {
    'random init': dict(kind='random'),
    'raw pixels': dict(kind='pixels'),
    'CAE v2, visible': dict(kind='v2', supervision='visible'),
    'CAE v2, masked': dict(kind='v2', supervision='masked'),
    'CAE v2, both': dict(kind='v2'),
    'CAE v1': dict(kind='v1'),
    'CAE v1, alignment only': dict(kind='v1', recon_weight=0.0),
    'CAE v1, no alignment': dict(kind='v1', align_weight=0.0),
    'CAE v1, no decoder': dict(kind='v1', decoder_depth=0),
    'CAE v1, neither': dict(kind='v1', align_weight=0.0, decoder_depth=0),
    **{
        f'CAE v2, width {dim}, {masked} of 36 masked': dict(kind='v2', dim=dim, layers=layers, masked=masked)
        for dim, layers in ((12, 2), (64, 3))
        for masked in (5, 16)
    },
    'supervised, 10 labels a class': dict(kind='supervised', shots=10),
    'supervised, all labels': dict(kind='supervised'),
}
EPOCHS = dict(v2=40, v1=60, supervised=40)


def student(dim: int, layers: int) -> dict:
    """Config of the encoder."""
    arch = dict(embed_dims=dim, num_layers=layers, num_heads=4, feedforward_channels=4 * dim)
    return dict(type='CAEViT', arch=arch, img_size=SIDE, patch_size=PATCH)


def build(arm: dict, folder: Path) -> torch.nn.Module:
    """Build the model of an arm from the registry."""
    dim = arm.get('dim', 48)
    backbone = student(dim, arm.get('layers', 3))
    if arm['kind'] in ('random', 'supervised'):
        if arm['kind'] == 'supervised':
            backbone.update(type='CAEFinetuneViT', use_rel_pos_bias=False)
        head = dict(type='LinearClsHead', num_classes=10, in_channels=dim)
        return MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head))
    neck = dict(type='CAERegressorNeck', embed_dims=dim, grid_size=(GRID, GRID), num_heads=4)
    if arm['kind'] == 'v2':
        neck.update(num_classes=64, regressor_depth=1, decoder_depth=0)
        head = dict(type='CAEv2Head', supervision=arm.get('supervision', 'both'))
        target = dict(type='DigitsTeacher', init_cfg=dict(type='Pretrained', checkpoint=str(folder / 'teacher.pth')))
    else:
        neck.update(num_classes=64, regressor_depth=2, decoder_depth=arm.get('decoder_depth', 2))
        weights = {key: arm[key] for key in ('recon_weight', 'align_weight') if key in arm}
        head = dict(type='CAEv1Head', **weights)
        target = dict(type='KMeansTokenTarget', codebook=str(folder / 'tokens.npz'))
    kind = dict(v1='CAEv1', v2='CAEv2')[arm['kind']]
    return MODELS.build(dict(type=kind, backbone=backbone, neck=neck, head=head, target_generator=target))


def mask_bank(masked: int, size: int = 1500) -> Tensor:
    """Masks (size, 6, 6); drawing them for each image would take most of the time."""
    draw = InclusiveBlockMask((GRID, GRID), num_masking_patches=masked, min_num_patches=4)
    return torch.from_numpy(np.stack([draw.transform({})['mask'] for _ in range(size)]))


def train(model: torch.nn.Module, arm: dict, digits: Digits, seed: int, epochs: int) -> None:
    """AdamW, warm-up of a tenth, cosine; the same for each arm."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = digits.train, digits.train_labels
    if 'shots' in arm:
        rows = few(labels, arm['shots'], seed)
        images, labels = images[rows], labels[rows]
    bank = None if arm['kind'] == 'supervised' else mask_bank(arm.get('masked', 18))
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        dict(params=[p for p in learning if p.ndim > 1], weight_decay=0.05),
        dict(params=[p for p in learning if p.ndim <= 1], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-3)
    steps = epochs * (len(digits.train) // 64)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / (0.1 * steps), 0.5 + 0.5 * np.cos(np.pi * max(0, step / steps - 0.1) / 0.9))
    )
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(images), (64,), generator=generator)
        batch = shift(images[rows], generator)
        if bank is None:
            samples = [DataSample().set_gt_label(label) for label in labels[rows].tolist()]
            losses = model.loss(digits.normalize(batch), samples)
        else:
            masks = bank[torch.randint(len(bank), (64,), generator=generator)]
            samples = [DataSample(metainfo=dict(mask=mask)) for mask in masks]
            losses = model.loss([digits.normalize(batch), batch], samples)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(learning, 3.0)
        optimizer.step()
        schedule.step()


def few(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Rows of ``shots`` samples a class."""
    generator = torch.Generator().manual_seed(1000 + seed)
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat([order[labels[order] == label][:shots] for label in range(10)])


def probes(train: Tensor, test: Tensor, digits: Digits, draws: int = 5) -> dict[str, float]:
    """Accuracies in percent: logistic regression on all labels, on 10 a class (mean of draws), 10 nearest neighbors."""
    scaler = StandardScaler().fit(train.numpy())
    x, z = scaler.transform(train.numpy()), scaler.transform(test.numpy())
    y, truth = digits.train_labels.numpy(), digits.test_labels.numpy()

    def score(classifier: object, rows: np.ndarray) -> float:
        return 100 * float((classifier.fit(x[rows], y[rows]).predict(z) == truth).mean())

    every = np.arange(len(y))
    shots = [few(digits.train_labels, 10, draw).numpy() for draw in range(draws)]
    return {
        'all labels': score(LogisticRegression(max_iter=500), every),
        '10-shot': float(np.mean([score(LogisticRegression(max_iter=500), rows) for rows in shots])),
        '10-NN': score(KNeighborsClassifier(10), every),
    }


@torch.no_grad()
def features(model: torch.nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Mean of the patch tokens (n, D), all of them side by side (n, 36 D), after the final norm."""
    tokens = model.backbone(images)[0][:, 1:]
    return dict(mean=tokens.mean(1), all_tokens=tokens.flatten(1))


def measure(name: str, seed: int, folder: Path, scale: float) -> dict:
    """Train an arm and probe it.

    Args:
        name: Of ``ARMS``.
        seed: Of weights, masks, order and draws.
        folder: Of the frozen targets.
        scale: Factor of the number of epochs.

    Returns:
        Probes by kind of feature and by name; of supervised arms ``mean.accuracy``.
    """
    arm, digits = ARMS[name], Digits()
    torch.manual_seed(seed)
    np.random.seed(seed)
    if arm['kind'] == 'pixels':
        found = probes(digits.train.mean(1).flatten(1), digits.test.mean(1).flatten(1), digits)
        return dict(mean=found, all_tokens=found)
    model = build(arm, folder)
    model.init_weights()
    if arm['kind'] != 'random':
        train(model, arm, digits, seed, max(1, round(scale * EPOCHS[arm['kind']])))
    model.eval()
    if arm['kind'] == 'supervised':
        with torch.no_grad():
            found = model.head(model.backbone(digits.normalize(digits.test))).argmax(1)
        return dict(mean={'accuracy': 100 * (found == digits.test_labels).float().mean().item()})
    train_set, test_set = (features(model, digits.normalize(images)) for images in (digits.train, digits.test))
    return {kind: probes(train_set[kind], test_set[kind], digits) for kind in train_set}
