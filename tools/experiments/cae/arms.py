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

from experiments.cae import targets  # noqa: F401
from experiments.cae.digits import Digits
from experiments.cae.photos import Photos
from experiments.frame.tasks import Context
from experiments.workloads.classify import choose
from mmplugins.cae import InclusiveBlockMask

# Name -> method, what differs; ``start``: the arm whose encoder is trained on. A step has 64 images.
ARMS = {
    'random init': dict(kind='random'),
    'raw pixels': dict(kind='pixels'),
    'CAE v2, visible': dict(kind='v2', supervision='visible'),
    'CAE v2, masked': dict(kind='v2', supervision='masked'),
    'CAE v2, both': dict(kind='v2'),
    'CAE v2, nearly no mask': dict(kind='v2', supervision='visible', masked=1),
    'CAE v2, no labels in the target': dict(kind='v2', supervision='visible', target='gradients'),
    'teacher itself': dict(kind='teacher'),
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
    'supervised, all labels, steps of both phases': dict(kind='supervised', steps=1800, minutes=1.5),
    **{
        f'{start}, fine-tuned': dict(kind='supervised', start=start)
        for start in ('CAE v1', 'CAE v2, visible', 'CAE v2, no labels in the target')
    },
}
STARTS = {name: arm['start'] for name, arm in ARMS.items() if 'start' in arm}
ENCODER = 'encoder.pth'  # in the folder of an arm that others start from
STEPS = dict(v2=720, v1=1080, supervised=720)
MINUTES = dict(random=0.05, pixels=0.05, teacher=0.05, v2=1.0, v1=1.3, supervised=0.6)  # of a processor, on photos
DATA = dict(digits=Digits, photos=Photos)
GRID = 6  # of both sets


def student(dim: int, layers: int, data: Digits | Photos) -> dict:
    """Config of the encoder."""
    arch = dict(embed_dims=dim, num_layers=layers, num_heads=4, feedforward_channels=4 * dim)
    return dict(type='CAEViT', arch=arch, img_size=data.side, patch_size=data.patch)


def build(arm: dict, data: Digits | Photos, folder: Path, start: Path | None = None) -> torch.nn.Module:
    """Build the model of an arm from the registry.

    Args:
        arm: A value of ``ARMS``.
        data: Images.
        folder: Of the frozen targets.
        start: Weights that the encoder starts from.
    """
    dim = arm.get('dim', 48)
    backbone = student(dim, arm.get('layers', 3), data)
    classes = int(data.train_labels.max()) + 1
    if arm['kind'] in ('random', 'supervised'):
        if arm['kind'] == 'supervised':
            backbone.update(type='CAEFinetuneViT', use_rel_pos_bias=False)
        if start:
            backbone['init_cfg'] = dict(type='Pretrained', checkpoint=str(start))
        head = dict(type='LinearClsHead', num_classes=classes, in_channels=dim)
        return MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head))
    neck = dict(type='CAERegressorNeck', embed_dims=dim, grid_size=(GRID, GRID), num_heads=4)
    if arm['kind'] == 'v2':
        neck.update(num_classes=64, regressor_depth=1, decoder_depth=0)
        head = dict(type='CAEv2Head', supervision=arm.get('supervision', 'both'))
        target = teacher(data, folder)
        if arm.get('target') == 'gradients':
            neck['num_classes'], target = 108, dict(type='HOGTarget', patch_size=data.patch, pool=data.patch // 2)
    else:
        neck.update(num_classes=64, regressor_depth=2, decoder_depth=arm.get('decoder_depth', 2))
        weights = {key: arm[key] for key in ('recon_weight', 'align_weight') if key in arm}
        head = dict(type='CAEv1Head', **weights)
        target = dict(type='KMeansTokenTarget', codebook=str(folder / 'tokens.npz'))
    kind = dict(v1='CAEv1', v2='CAEv2')[arm['kind']]
    return MODELS.build(dict(type=kind, backbone=backbone, neck=neck, head=head, target_generator=target))


def teacher(data: Digits | Photos, folder: Path) -> dict:
    """Config of the CNN that stands for CLIP."""
    init_cfg = dict(type='Pretrained', checkpoint=str(folder / 'teacher.pth'))
    classes = int(data.train_labels.max()) + 1
    return dict(type='LabelCNNTeacher', strides=data.strides, num_classes=classes, init_cfg=init_cfg)


def mask_bank(masked: int, size: int = 1500) -> Tensor:
    """Masks (size, 6, 6); drawing them for each image would take most of the time."""
    draw = InclusiveBlockMask((GRID, GRID), num_masking_patches=masked, min_num_patches=4)
    return torch.from_numpy(np.stack([draw.transform({})['mask'] for _ in range(size)]))


def train(model: torch.nn.Module, arm: dict, data: Digits | Photos, seed: int, steps: int) -> None:
    """AdamW, warm-up of a tenth, cosine; the same for each arm."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = data.train, data.train_labels
    if 'shots' in arm:
        rows = choose(labels, arm['shots'], seed)
        images, labels = images[rows], labels[rows]
    bank = None if arm['kind'] == 'supervised' else mask_bank(arm.get('masked', 18))
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        dict(params=[p for p in learning if p.ndim > 1], weight_decay=0.05),
        dict(params=[p for p in learning if p.ndim <= 1], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / (0.1 * steps), 0.5 + 0.5 * np.cos(np.pi * max(0, step / steps - 0.1) / 0.9))
    )
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(images), (64,), generator=generator)
        batch = data.augment(images[rows], generator)
        if bank is None:
            samples = [DataSample().set_gt_label(label) for label in labels[rows].tolist()]
            losses = model.loss(data.normalize(batch), samples)
        else:
            masks = bank[torch.randint(len(bank), (64,), generator=generator)]
            samples = [DataSample(metainfo=dict(mask=mask)) for mask in masks]
            losses = model.loss([data.normalize(batch), batch], samples)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(learning, 3.0)
        optimizer.step()
        schedule.step()


def probes(train: Tensor, test: Tensor, data: Digits | Photos, draws: int = 5) -> dict[str, float]:
    """Accuracies in percent: logistic regression on all labels, on 10 a class (mean of draws), 10 nearest neighbors."""
    scaler = StandardScaler().fit(train.numpy())
    x, z = scaler.transform(train.numpy()), scaler.transform(test.numpy())
    y, truth = data.train_labels.numpy(), data.test_labels.numpy()

    def score(classifier: object, rows: np.ndarray) -> float:
        return 100 * float((classifier.fit(x[rows], y[rows]).predict(z) == truth).mean())

    every = np.arange(len(y))
    shots = [choose(data.train_labels, 10, draw).numpy() for draw in range(draws)]
    return {
        'all labels': score(LogisticRegression(max_iter=500), every),
        '10-shot': float(np.mean([score(LogisticRegression(max_iter=500), rows) for rows in shots])),
        '10-NN': score(KNeighborsClassifier(10), every),
    }


@torch.no_grad()
def features(network: torch.nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Mean of the patch tokens (n, D), all of them side by side (n, 36 D), after the final norm."""
    found = [network(batch) for batch in images.split(256)]
    tokens = torch.cat([part[0] if isinstance(part, tuple) else part for part in found])[:, 1:]
    return dict(mean=tokens.mean(1), all_tokens=tokens.flatten(1))


def start_of(name: str, context: Context) -> Path | None:
    """Return the weights that an arm starts from; None if from scratch.

    Raises:
        SystemExit: They are not there.
    """
    if name not in STARTS:
        return None
    file = context.of(STARTS[name]).folder / ENCODER
    if not file.is_file():
        raise SystemExit(f'{name!r} starts from {file}, which is missing: remove that folder and run {STARTS[name]!r}')
    return file


def measure(name: str, seed: int, context: Context, task: str) -> dict:
    """Train an arm and probe it.

    Args:
        name: Of ``ARMS``.
        seed: Of weights, masks, order and draws.
        context: Of the job; the encoder of an arm that others start from is left in its folder.
        task: Of ``DATA``.

    Returns:
        Probes by kind of feature and by name; of supervised arms ``mean.accuracy``.
    """
    arm, data, folder = ARMS[name], DATA[task](context.data), context.work / f'{task}.targets'
    torch.manual_seed(seed)
    np.random.seed(seed)
    if arm['kind'] == 'pixels':
        found = probes(data.pixels(data.train), data.pixels(data.test), data)
        return dict(mean=found, all_tokens=found)
    if arm['kind'] == 'teacher':
        network, view = MODELS.build(teacher(data, folder)), lambda images: images
        network.init_weights()
        network.eval()
    else:
        model = build(arm, data, folder, start_of(name, context))
        model.init_weights()
        if arm['kind'] != 'random':
            steps = arm.get('steps', STEPS[arm['kind']])
            train(model, arm, data, seed, max(2, round(0.05 * steps)) if context.quick else steps)
        model.eval()
        if name in STARTS.values():
            torch.save(model.state_dict(), context.folder / ENCODER)
        if arm['kind'] == 'supervised':
            with torch.no_grad():
                found = model.head(model.backbone(data.normalize(data.test))).argmax(1)
            return dict(mean={'accuracy': 100 * (found == data.test_labels).float().mean().item()})
        network, view = model.backbone, data.normalize
    train_set, test_set = (features(network, view(images)) for images in (data.train, data.test))
    return {kind: probes(train_set[kind], test_set[kind], data) for kind in train_set}
