"""What two streams, their alignment and DS-FPN do on real images, small enough for two CPU cores.

One small DS-Net with one stream, two, two aligned ones, and a wider one in the place of the alignment, on photos
(``--data``, ``{train,val}/<class>/*``; default: clothes at 48 pixels) and on pairs of digits (scikit-learn); and a
small detector with FPN and with DS-FPN on blood cells.
"""

import functools

import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments import ROOT
from experiments.dsnet.network import ALIGNED, DUAL, GLOBAL, LOCAL, OPTIONS, WIDER, Classifier
from experiments.dsnet.pairs import make_pairs
from experiments.frame.claims import Claim, Found, Row
from experiments.frame.experiment import Experiment
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.workloads.classify import FOLDS, classify_photos, count, fit, top1
from experiments.workloads.detect import train_detector
from experiments.workloads.images import CLOTHING
from mmplugins.dsnet import DSNet

PHOTOS = dict(
    embed_dims=(32, 64, 96), wider=(36, 72, 102), depths=(1, 2, 1), num_heads=(1, 2, 3), global_ratios=(4, 2, 1)
)  # fmt: skip
# The global arm has the weights of the aligned one, so there is none that is only wider.
PAIRS = dict(embed_dims=(32, 64), depths=(1, 1), num_heads=(2, 4), global_ratios=(4, 2), patch_sizes=(2, 2))
FPN, DSFPN, BLOCKS = 'FPN', 'DS-FPN', 'blocks without global stream, wider'
PLAIN, DUAL_NECK = 'retinanet_dsnet-micro_fpn_1xb8-6e_bccd.py', 'retinanet_dsnet-micro_dsfpn_1xb8-6e_bccd.py'
# Config and changes. The control has the blocks of DS-FPN, all channels in the local stream, and no fewer weights.
NECKS = {
    FPN: (PLAIN, {}),
    DSFPN: (DUAL_NECK, {}),
    BLOCKS: (DUAL_NECK, {'model.neck.split_ratio': 0.0, 'model.neck.mlp_ratio': 6}),
}
EPOCHS = (12, 18)  # better, or only faster
# Millions of parameters and GMACs at 224, 1000 classes, of the models with a star: documentation of PaddleClas.
PUBLISHED = dict(tiny=(10.5, 1.8), small=(23.0, 3.5), base=(49.3, 8.4))


def photos(arm: str, seed: int, context: Context) -> dict:
    """Train on photos, see `classify_photos`."""
    build = functools.partial(Classifier, arm, PHOTOS, 3)
    small = dict(size=32, epochs=1, limit=3) if context.quick else dict(size=48, epochs=12)
    return classify_photos(build, seed, context.data, lr=2e-3, **small)


def pairs(arm: str, seed: int, context: Context) -> dict:
    """Train on pairs of digits, and test on pairs of other scans."""
    number, epochs = (20, 1) if context.quick else (3000, 6)
    images, labels = make_pairs(number, True, seed)
    test_images, test_labels = make_pairs(min(number, 2000), False, 1000)
    torch.manual_seed(seed)
    model = Classifier(arm, PAIRS, 1, 2)
    fit(model, images, labels, epochs=epochs, batch=100, lr=2e-3, seed=seed)
    scores = dict(top1=top1(model, test_images, test_labels), training=top1(model, images, labels))
    return dict(**scores, parameters=count(model), test_images=len(test_labels))


def detect(neck: str, seed: int, context: Context, epochs: int) -> dict:
    """Train the small RetinaNet of the configs, longer than they do."""
    small = dict(epochs=1, images=4) if context.quick else dict(epochs=epochs)
    config, changes = NECKS[neck]
    return train_detector(ROOT / 'configs/dsnet' / config, seed, context.folder, changes=changes, **small)


def sizes(arch: str, seed: int, context: Context) -> dict:
    """Count the weights of a published model, and its multiplications; nothing is trained."""
    with torch.device('meta'), FlopCounterMode(display=False) as counter:
        net = DSNet(arch).eval()
        net(torch.empty(1, 3, 224, 224))
    return dict(millions=(count(net) + 513 * 1000) / 1e6, gmacs=counter.get_total_flops() / 2e9)


def claims(found: Found) -> list[Claim]:
    """What follows."""
    top1 = f'top-1 in percent, {found.first("photos", ALIGNED)["images"]} photos in {FOLDS} folds'
    same = f'top-1 in percent, {found.first("pairs", ALIGNED)["test_images"]} pairs'
    majority = Row('always the most frequent class', top1, found.values('photos', ALIGNED, 'majority'))
    photos_above = functools.partial(found.compare, 'photos', key='top1', metric=top1)
    others = [arm for arm in found.arms('pairs') if arm != ALIGNED]
    return [
        size_claim(found),
        Claim(
            'Two streams are better than either alone, photos',
            'ablation of the channel ratio, without alignment; small experiment of ours',
            'two streams above the local and above the global one',
            [photos_above(DUAL, single) for single in (LOCAL, GLOBAL)],
            [*found.rows('photos', 'top1', top1), majority, *found.rows('photos', 'parameters', 'parameters')],
        ),
        Claim(
            'The alignment helps, photos',
            'abstract; small experiment of ours',
            'the aligned arm above two streams, and above wider ones of no fewer weights',
            [photos_above(ALIGNED, other) for other in (DUAL, WIDER)],
        ),
        Claim(
            'The alignment relates what is far apart, pairs of digits (made for this after the photos)',
            'ours: the mechanism, not the accuracy',
            'the aligned arm above all others',
            [found.compare('pairs', ALIGNED, other, 'top1', same) for other in others],
            [*found.rows('pairs', 'top1', same), *found.rows('pairs', 'parameters', 'parameters')],
        ),
        *(pyramid_claim(found, epochs) for epochs in EPOCHS),
    ]


def pyramid_claim(found: Found, epochs: int) -> Claim:
    """DS-FPN against FPN, and against blocks of its size without what the paper adds."""
    task, metric = f'detect {epochs}', 'AP50, 72 images'
    return Claim(
        f'DS-FPN is better than FPN and than blocks without global stream, blood cells, {epochs} epochs',
        'paper; details of DS-FPN are ours, small experiment of ours',
        'DS-FPN above FPN, and above a control of no fewer weights',
        [found.compare(task, DSFPN, other, 'ap50', metric) for other in (FPN, BLOCKS)],
        [
            *found.rows(task, 'ap50', metric),
            *found.rows(task, 'parameters', 'parameters'),
            *found.rows(task, 'cpu_seconds', 'processor seconds of training'),
        ],
    )


def size_claim(found: Found) -> Claim:
    """Parameters and multiplications against the published ones."""
    judged = []
    for arch, (millions, gmacs) in PUBLISHED.items():
        measured = found.first('sizes', arch)
        off = {0: abs(measured['millions'] - millions)}
        judged.append(Comparison(f'{arch}, off the published', 'million parameters', off, below=0.05, exact=True))
        # Ours does the projections of the global stream where it is small, so it multiplies less.
        more = {0: measured['gmacs'] - gmacs}
        judged.append(Comparison(f'{arch}, above the published', 'GMACs at 224', more, below=0.05, exact=True))
    return Claim(
        'The sizes are the published ones',
        'PaddleClas',
        'parameters equal after rounding, GMACs not above the published ones',
        judged,
        [*found.rows('sizes', 'millions', 'million parameters'), *found.rows('sizes', 'gmacs', 'GMACs at 224')],
    )


EXPERIMENT = Experiment(
    tasks=dict(
        photos=Task(photos, tuple(OPTIONS), tuple(range(10)), minutes=0.6),
        pairs=Task(pairs, tuple(arm for arm in OPTIONS if arm != WIDER), (0, 1, 2), minutes=1.0),
        **{
            f'detect {epochs}': Task(
                functools.partial(detect, epochs=epochs), tuple(NECKS), (0, 1, 2, 3, 4), minutes=epochs / 5
            )
            for epochs in EPOCHS
        },
        sizes=Task(sizes, tuple(PUBLISHED), minutes=0.1),
    ),
    claims=claims,
    data=CLOTHING,
    packages=('scikit-learn',),
)
