"""What SPSA does and does not do, on real images, small enough for two CPU cores.

A small network in two layouts with different mixers on photos (``--data``, ``{train,val}/<class>/*``; default: clothes
at 48 pixels; ``tools/data/unpack_jpegs.py`` makes one of CIFAR-10), and steps from one layout to the other; a small
detector with and without SPSA on blood cells, the layer against exact attention, and its time over tokens.
"""

import functools
import math
from dataclasses import replace
from pathlib import Path

import torch

from experiments import ROOT
from experiments.frame.claims import Claim, Found, Row, minus
from experiments.frame.experiment import Experiment
from experiments.frame.measure import interleaved
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.spsa import approximate as near
from experiments.spsa.figure import draw_maps
from experiments.spsa.mixers import attention
from experiments.spsa.network import (
    AGG,
    ARMS,
    GATE,
    MHSA,
    MIXERS,
    NONE,
    ONE,
    SGE,
    SIMAM,
    STEPS,
    TWO,
    Classifier,
    arm_of,
)
from experiments.workloads.classify import Plan, classify_photos, plan_of
from experiments.workloads.detect import train_detector
from experiments.workloads.images import CLOTHING
from mmplugins.spsa import spsa_agg, spsa_gate

DETECTOR = ROOT / 'configs/spsa/fcos_spsanet-micro_1xb8-12e_bccd.py'
DETECTOR_MIXERS = {NONE: None, GATE: dict(type='SPSA', head_dim=16)}
SOURCE = 'abstract; small experiment of ours'
NEAR = 2.0  # points that still count as as good, fixed before any run
BETTER = 'With convolution it is better than convolution alone'


def plan_photos(data: Path) -> Plan:
    """Clothes at 48 pixels, 25 epochs; a large set as `plan_of` says."""
    return plan_of(data, size=48, epochs=25)


def photos(arm: str, seed: int, context: Context) -> dict:
    """Train on photos; weights at the start are equal in the arms of a layout without parameters in the mixer."""
    plan = plan_photos(context.data)
    if context.quick:
        plan = replace(plan, size=32, epochs=1)
    build = functools.partial(Classifier, arm)
    return classify_photos(build, seed, context.data, plan=plan, lr=3e-3, limit=3 if context.quick else None)


def on_data(data: Path) -> dict[str, Task]:
    """What is run on another set of photos; of a large one without the steps between the layouts."""
    plan = plan_photos(data)
    if plan.folds:
        return dict(photos=PHOTO_TASK)
    arms = tuple(arm_of(layout, mixer) for mixer in MIXERS for layout in (ONE, TWO))
    return dict(photos=Task(photos, arms, tuple(range(5)), minutes=LARGE_MINUTES * plan.photos / 50_000))


def detect(mixer: str, seed: int, context: Context) -> dict:
    """Train the small FCOS of the configs."""
    small = dict(epochs=1, images=4) if context.quick else dict(epochs=6)
    changes = {'model.backbone.mixer': DETECTOR_MIXERS[mixer]}
    return train_detector(DETECTOR, seed, context.folder, changes=changes, **small)


def approximate(kind: str, seed: int, context: Context) -> dict:
    """Compare with exact attention on features of the photos."""
    return near.measure(context.data / 'val', 64, 1 if context.quick else 6, seed)[kind]


LAYERS = {
    'SPSA gate': lambda x: spsa_gate(x, 4),
    'SPSA agg': lambda x: spsa_agg(x, 4),
    'softmax attention': lambda x: attention(x, 4),
}


@torch.no_grad()
def slope(layer: str, seed: int, context: Context) -> dict:
    """Exponent of processor time over tokens, from 784 tokens on."""
    last = 32 if context.quick else 56 if layer == 'softmax attention' else 112
    seconds = {}
    for side in (28, last):
        x = torch.randn(1, 64, side, side)
        # Many small calls in one measurement: the clock of a process is coarse.
        calls = max(1, 40 * 784 // side**2)
        seconds[side] = (
            interleaved({'': lambda x=x, n=calls: [LAYERS[layer](x) for _ in range(n)]}, 7, 'cpu')[''] / calls
        )
    return dict(exponent=math.log(seconds[last] / seconds[28]) / math.log(last**2 / 784))


def claims(found: Found) -> list[Claim]:
    """What follows."""
    return [
        *exact_claims(found),
        *(claim for layout in (ONE, TWO) for claim in layout_claims(found, layout)),
        *part_claims(found),
        Claim(
            f'{BETTER}, object detection',
            SOURCE,
            'the gate above no mixer',
            [found.compare('detect', GATE, NONE, 'ap50', 'AP50, 72 images')],
            found.rows('detect', 'ap50', 'AP50, 72 images'),
        ),
    ]


def metric_of(found: Found) -> str:
    """What the photos are judged by."""
    arms = found.arms('photos')
    tested = found.first('photos', arms[0])['tested'] if arms else 'photos'
    return f'top-1 in percent, {tested}'


def layout_claims(found: Found, layout: str) -> list[Claim]:
    """What is claimed of the gate beside the other mixers in one layout of the network."""
    metric = metric_of(found)
    arms = [arm_of(layout, mixer) for mixer in MIXERS]

    def above(mixer: str, by: float = 0.0) -> Comparison:
        return found.compare('photos', arm_of(layout, GATE), arm_of(layout, mixer), 'top1', metric, above=by)

    majority = Row('always the most frequent class', metric, found.values('photos', arm_of(layout, NONE), 'majority'))
    return [
        Claim(
            f'{BETTER}, image classification, {layout} a block',
            SOURCE,
            'the gate above no mixer',
            [above(NONE)],
            [*found.rows('photos', 'top1', metric, arms), majority],
        ),
        Claim(
            f'It is better than the gates that it is nearest to, SimAM and SGE, {layout} a block',
            SOURCE,
            'the gate above both',
            [above(SIMAM), above(SGE)],
        ),
        Claim(
            f'It is as good as self-attention, {layout} a block (ours to ask, not claimed)',
            SOURCE,
            f'the gate not more than {NEAR:g} points below MHSA, tokens added',
            [above(MHSA, by=-NEAR)],
            found.time_over('photos', arm_of(layout, NONE), arms),
        ),
    ]


def part_claims(found: Found) -> list[Claim]:
    """What costs the gate its gain: the faster layout as a whole, and each of its parts alone."""
    metric = f'gain by the gate, {metric_of(found)}'

    def gain(layout: str) -> dict[int, float]:
        return found.difference('photos', arm_of(layout, GATE), arm_of(layout, NONE), 'top1')

    def claim(text: str, *layouts: str) -> Claim:
        return Claim(
            text,
            'ours; three and five seeds of an earlier measurement',
            'the gain in the layout of two residuals above that without it, or with one part changed',
            [
                Comparison(f'{TWO} minus {layout}', metric, minus(gain(TWO), gain(layout)), above=0)
                for layout in layouts
            ],
            [Row(layout, metric, gain(layout)) for layout in (TWO, *layouts)],
        )

    claims = [claim('Two residuals a block give the gate a gain that one does not (ours to ask)', ONE)]
    # On a large set the steps are not run.
    steps = [layout for layout in STEPS if arm_of(layout, GATE) in (found.arms('photos') or ARMS)]
    if steps:
        claims.append(
            claim(
                'Changing any one part of the two-residual layout costs the gate some of its gain (ours to ask)', *steps
            )
        )
    return claims


def exact_claims(found: Found) -> list[Claim]:
    """The claims about the layer, for which nothing is trained."""
    pearson, dot = near.EXACT

    def error(kind: str, name: str) -> dict[int, float]:
        return found.values('approximate', kind, f'error.{name}')

    rank = 'rank correlation with the attention a token receives'
    shown = [
        Row(name, f'{title}, {kind}', found.values('approximate', kind, f'{key}.{name}'))
        for kind in near.EXACT
        for key, title in (('error', 'relative error'), ('cosine', 'cosine'))
        for name in (near.AGG, near.GATE, near.SIGMOID, near.TOKEN, near.MEAN)
    ]
    ranks = {kind: found.values('approximate', kind, 'rank') for kind in near.EXACT}
    shown += [Row('gate', f'{rank}, {kind}', values) for kind, values in ranks.items()]
    count = ('parameters', 'parameters')
    return [
        Claim(
            'It has no training parameters',
            SOURCE,
            'the network with SPSA has no more parameters than the one without any mixer: a difference of 0 holds',
            [
                found.compare('photos', arm_of(layout, mixer), arm_of(layout, NONE), *count, below=0, exact=True)
                for layout in (ONE, TWO)
                for mixer in (GATE, AGG)
            ],
            found.rows('photos', 'parameters', 'parameters'),
        ),
        Claim(
            'Its complexity is linear in the number of tokens',
            SOURCE,
            'exponent of processor time at most 1.1, 784 to 12,544 tokens (attention: 784 to 3,136)',
            [Comparison(GATE, 'exponent', found.values('slope', GATE, 'exponent'), below=1.1)],
            found.rows('slope', 'exponent', 'exponent'),
        ),
        Claim(
            'It approximates self-attention',
            SOURCE,
            'against softmax attention over correlations: error of agg (a mode of ours) below that of the mean token, '
            'that below 1, and rank correlation of the gate with the attention that a token receives above 0.6',
            [
                Comparison(
                    'agg minus mean token',
                    f'relative error, {pearson}',
                    minus(error(pearson, near.AGG), error(pearson, near.MEAN)),
                    below=0,
                ),
                Comparison('mean token', f'relative error, {pearson}', error(pearson, near.MEAN), below=1),
                Comparison('gate', f'{rank}, {pearson}', ranks[pearson], above=0.6),
            ],
            shown,
        ),
        # Stated apart: what users may expect from the title and do not get.
        Claim(
            'The output of the gate is close to that of attention over dot products (ours to ask, not claimed)',
            SOURCE,
            'a smaller error than the token itself has, without any attention',
            [
                Comparison(
                    'the token itself minus gate',
                    f'relative error, {dot}',
                    minus(error(dot, near.TOKEN), error(dot, near.GATE)),
                    above=0,
                )
            ],
        ),
    ]


def pictures(found: Found, context: Context, folder: Path) -> None:
    """What the gate looks at."""
    draw_maps(context.data / 'val', 96, folder / 'maps.png')


PHOTO_TASK = Task(photos, tuple(ARMS), tuple(range(10)), minutes=0.3)
LARGE_MINUTES = 11  # of 50,000 photos of 32 pixels, 20 epochs, by the time of a step
EXPERIMENT = Experiment(
    tasks=dict(
        detect=Task(detect, tuple(DETECTOR_MIXERS), tuple(range(8)), minutes=1.0),
        photos=PHOTO_TASK,
        approximate=Task(approximate, near.EXACT, (0, 1, 2, 3, 4), minutes=0.2),
        slope=Task(slope, tuple(LAYERS), (0, 1, 2, 3, 4), minutes=0.3),
    ),
    claims=claims,
    finish=pictures,
    data=CLOTHING,
    on_data=on_data,
)
