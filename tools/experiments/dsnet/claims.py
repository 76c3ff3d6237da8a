"""What two streams, their alignment and DS-FPN do on real images, small enough for two CPU cores.

A small DS-Net with one stream, two, and two aligned ones, all of the same size by their widths: on photos (``--data``,
``{train,val}/<class>/*``; default: clothes at 48 pixels; ``tools/data/unpack_jpegs.py`` makes one of CIFAR-10) and on
pairs of digits (scikit-learn); and a small detector with FPN and with DS-FPN on blood cells.
"""

import functools
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments import ROOT
from experiments.dsnet.network import ALIGNED, DUAL, GLOBAL, LOCAL, MOST, OPTIONS, QUARTER, Classifier
from experiments.dsnet.pairs import make_pairs
from experiments.frame.claims import Claim, Found, Row
from experiments.frame.experiment import Experiment
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.workloads.classify import Plan, classify_photos, count, fit, plan_of, top1
from experiments.workloads.detect import train_detector
from experiments.workloads.images import CLOTHING
from mmplugins.dsnet import DSNet

PHOTOS = dict(depths=(1, 2, 1), num_heads=(1, 2, 3), global_ratios=(4, 2, 1))
# As many weights as the aligned arm has, to 1 %, and as many multiplications, to 3 %.
PHOTO_WIDTHS = {
    LOCAL: (34, 64, 120), QUARTER: (32, 72, 108), DUAL: (34, 72, 102), MOST: (36, 72, 92), GLOBAL: (42, 68, 84),
    ALIGNED: (32, 64, 96),
}  # fmt: skip
# The paper's first stage with tokens twice as coarse. No second stage: its patches would read all of the fine map.
# No fewer weights than the aligned arm has.
PAIRS = dict(depths=(2,), num_heads=(1,), global_ratios=(16,), patch_sizes=(4,))
PAIR_WIDTHS = {LOCAL: (37,), GLOBAL: (33,), DUAL: (36,), ALIGNED: (32,)}
TEST_PAIRS, LEARNED = 1000, 75.0
FPN, DSFPN, BLOCKS = 'FPN', 'DS-FPN', 'blocks without global stream, wider'
PLAIN, DUAL_NECK = 'retinanet_dsnet-micro_fpn_1xb8-6e_bccd.py', 'retinanet_dsnet-micro_dsfpn_1xb8-6e_bccd.py'
# Config and changes. The control has the blocks of DS-FPN, all channels in the local stream, and no fewer weights.
NECKS = {
    FPN: (PLAIN, {}),
    DSFPN: (DUAL_NECK, {}),
    BLOCKS: (DUAL_NECK, {'model.neck.split_ratio': 0.0, 'model.neck.mlp_ratio': 6}),
}
EPOCHS = (6, 12, 18)  # those of the configs; and longer, to tell whether it is better, or only faster
# Millions of parameters and GMACs at 224, 1000 classes, of the models with a star: documentation of PaddleClas.
PUBLISHED = dict(tiny=(10.5, 1.8), small=(23.0, 3.5), base=(49.3, 8.4))


def plan_photos(data: Path) -> Plan:
    """Clothes at 48 pixels, 12 epochs; a large set as `plan_of` says."""
    return plan_of(data, size=48, epochs=12)


def photos(arm: str, seed: int, context: Context) -> dict:
    """Train on photos, see `classify_photos`."""
    plan = plan_photos(context.data)
    if context.quick:
        plan = replace(plan, size=32, epochs=1)
    # The first map has 12 x 12 positions or more.
    arch = dict(PHOTOS, patch_sizes=(4 if plan.size >= 48 else 2, 2, 2))
    build = functools.partial(Classifier, arm, arch, PHOTO_WIDTHS, 3)
    return classify_photos(build, seed, context.data, plan=plan, lr=2e-3, limit=3 if context.quick else None)


def on_data(data: Path) -> dict[str, Task]:
    """What is run on another set of photos."""
    plan = plan_photos(data)
    if plan.folds:
        return dict(photos=PHOTO_TASK)
    return dict(photos=Task(photos, tuple(OPTIONS), tuple(range(5)), minutes=LARGE_MINUTES * plan.photos / 50_000))


def pairs(arm: str, seed: int, context: Context) -> dict:
    """Train on pairs of digits, and test after each epoch on pairs of other scans."""
    number, epochs = (100, 1) if context.quick else (4000, 15)
    images, labels = make_pairs(number, True, seed)
    tests = make_pairs(TEST_PAIRS, False, 1000)
    torch.manual_seed(seed)
    model = Classifier(arm, PAIRS, PAIR_WIDTHS, 1, 2)
    curve = {}
    fit(
        model, images, labels, epochs=epochs, batch=100, lr=4e-3, seed=seed,
        watch=lambda steps: curve.update({steps: top1(model, *tests)}),
    )  # fmt: skip
    learned = next((steps for steps, score in curve.items() if score >= LEARNED), None)
    scores = dict(top1=curve[max(curve)], training=top1(model, images, labels))
    return dict(**scores, learned=learned, curve=curve, parameters=count(model))


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
    return [size_claim(found), *photo_claims(found), pair_claim(found), *(pyramid_claim(found, e) for e in EPOCHS)]


def photo_claims(found: Found) -> list[Claim]:
    """Of arms of equal size: two streams against one of each kind, the alignment, the ratio."""
    arms = found.arms('photos')
    tested = found.first('photos', arms[0])['tested'] if arms else 'photos'
    metric = f'top-1 in percent, {tested}'
    majority = Row('always the most frequent class', metric, found.values('photos', LOCAL, 'majority'))
    source = 'ablation of the channel ratio, without alignment; small experiment of ours'

    def above(ours: str, *theirs: str) -> list[Comparison]:
        return [found.compare('photos', ours, other, 'top1', metric) for other in theirs]

    return [
        Claim(
            'Two streams are better than either alone, photos, equal size',
            source,
            'two streams, not aligned, above the local and above the global one, as many weights and multiplications',
            above(DUAL, LOCAL, GLOBAL),
            [*found.rows('photos', 'top1', metric), majority, *found.rows('photos', 'parameters', 'parameters')],
        ),
        Claim(
            'Two aligned streams are better than either alone, photos, equal size',
            'abstract; small experiment of ours',
            'aligned streams above the local and above the global one, as many weights and multiplications',
            above(ALIGNED, LOCAL, GLOBAL),
        ),
        Claim(
            'The alignment helps, photos, equal size',
            'abstract; small experiment of ours',
            'aligned streams above wider ones without alignment, as many weights and multiplications',
            above(ALIGNED, DUAL),
        ),
        Claim(
            'An even split of the channels is the best, photos, equal size',
            source,
            'alpha 0.5 above 0.25 and above 0.75',
            above(DUAL, QUARTER, MOST),
        ),
    ]


def pair_claim(found: Found) -> Claim:
    """The mechanism: what is read at full resolution is related over any distance."""
    metric = f'top-1 in percent, {TEST_PAIRS} pairs'
    learned = f'steps until {LEARNED:g} percent of the test pairs are right, seeds that get there'
    return Claim(
        'The alignment relates what is far apart and only fine maps show, pairs of digits',
        'ours: the mechanism, not the accuracy',
        'the aligned arm above all others, which have no fewer weights',
        [found.compare('pairs', ALIGNED, other, 'top1', metric) for other in PAIR_WIDTHS if other != ALIGNED],
        [
            *found.rows('pairs', 'top1', metric),
            *found.rows('pairs', 'training', 'top-1 in percent, training pairs'),
            *found.rows('pairs', 'learned', learned),
            *found.rows('pairs', 'parameters', 'parameters'),
        ],
    )


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
            *found.time_over(task, FPN),
        ],
    )


def size_claim(found: Found) -> Claim:
    """Parameters and multiplications against the published ones."""
    judged = []
    for arch, (millions, gmacs) in PUBLISHED.items():
        off = {seed: abs(value - millions) for seed, value in found.values('sizes', arch, 'millions').items()}
        judged.append(Comparison(f'{arch}, off the published', 'million parameters', off, below=0.05, exact=True))
        # Ours does the projections of the global stream where it is small, so it multiplies less.
        more = {seed: value - gmacs for seed, value in found.values('sizes', arch, 'gmacs').items()}
        judged.append(Comparison(f'{arch}, above the published', 'GMACs at 224', more, below=0.05, exact=True))
    return Claim(
        'The sizes are the published ones',
        'PaddleClas',
        'parameters equal after rounding, GMACs not above the published ones',
        judged,
        [*found.rows('sizes', 'millions', 'million parameters'), *found.rows('sizes', 'gmacs', 'GMACs at 224')],
    )


PHOTO_TASK = Task(photos, tuple(OPTIONS), tuple(range(10)), minutes=0.6)
LARGE_MINUTES = 43  # of 50,000 photos of 32 pixels, 20 epochs, by the time of a step
DETECTORS = {
    f'detect {epochs}': Task(
        functools.partial(detect, epochs=epochs), tuple(NECKS), (0, 1, 2, 3, 4), minutes=epochs / 5
    )
    for epochs in EPOCHS
}
EXPERIMENT = Experiment(
    tasks=dict(
        photos=PHOTO_TASK,
        pairs=Task(pairs, tuple(PAIR_WIDTHS), tuple(range(10)), minutes=0.75),
        **DETECTORS,
        sizes=Task(sizes, tuple(PUBLISHED), minutes=0.1),
    ),
    claims=claims,
    data=CLOTHING,
    on_data=on_data,
    packages=('scikit-learn',),
)
