"""Claims of O²DETR (arXiv 2106.03146) on turned handwritten digits, small enough for two CPU cores.

The small configs of ``configs/o2detr`` on pictures that are made here; AP is that of mmrotate's ``DOTAMetric`` on 150
images.
"""

import functools

from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from experiments import ROOT
from experiments.frame import measure
from experiments.frame.claims import Claim, Found, minus
from experiments.frame.experiment import Experiment
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.o2detr.arms import ARMS, MORE_ITERS, arm_config
from experiments.o2detr.data import SIZE, make_data
from experiments.o2detr.layers import EncoderCase
from experiments.o2detr.measure import test
from experiments.workloads.classify import count

ITERS = 500
NEAR = 0.05  # "within a few points" of AP50, fixed before any run
KINDS = {'depthwise separable': 'ours', 'deformable': 'deformable', 'dense attention': 'dense, explicit'}
SIZES = tuple((dims, side) for dims in (64, 256) for side in (256, 512, 1024))


def prepare(context: Context) -> None:
    """Paint the images."""
    make_data(context.work / 'data', ROOT / 'tests/data/clothing10', scale=0.02 if context.quick else 1.0)


def detect(arm: str, seed: int, context: Context) -> dict:
    """Train and test a detector."""
    init_default_scope('mmrotate')
    iters, base = 3 if context.quick else ITERS, ARMS[arm].get('start')
    start = base and context.of(base).folder / f'iter_{iters}.pth'
    steps = min(MORE_ITERS, iters) if base else iters
    runner = Runner.from_cfg(arm_config(arm, context.work / 'data', context.folder, steps, seed, start))
    runner.train()
    return dict(**test(runner), parameters=count(runner.model) / 1e6)


def costs(kind: str, seed: int, context: Context) -> dict:
    """Operations, and bytes kept for the backward pass, of one encoder layer at all sizes."""
    found = {}
    for dims, side in SIZES[:1] if context.quick else SIZES:
        # The matrix of dense attention at 1024x1024 pixels has 14 GiB: nothing of it is computed.
        device = 'meta' if kind == 'dense attention' else 'cpu'
        call = EncoderCase(side, dims, (KINDS[kind],), device).arms('layer')[KINDS[kind]]
        found[f'D {dims}, {side}²'] = dict(gflop=measure.flops(call) / 1e9, mib=measure.kept_bytes(call) / 2**20)
    return found


def cost_claim(found: Found) -> Claim:
    """The claim that needs no training."""
    judged, shown = [], []
    cases = [case for case in found.first('costs', 'deformable') if case.startswith('D ')]
    for key, text in (('gflop', 'GFLOP of a layer'), ('mib', 'MiB kept for the backward pass')):
        for case in cases:
            for less, more in (('depthwise separable', 'deformable'), ('deformable', 'dense attention')):
                values = found.difference('costs', less, more, f'{case}.{key}')
                judged.append(Comparison(f'{less} minus {more}', f'{text}, {case}', values, below=0, exact=True))
            shown += found.rows('costs', f'{case}.{key}', f'{text}, {case}')
    return Claim(
        'Depthwise separable convolution in the place of attention reduces memory and computation of the encoder',
        'abstract; small experiment of ours',
        'depthwise separable < deformable < dense attention with explicit weights, at every width and size',
        judged,
        shown,
    )


def claims(found: Found) -> list[Claim]:
    """What follows."""
    source = 'abstract; small experiment of ours'
    compare = functools.partial(found.compare, 'detect')

    def aps(*arms: str) -> list:
        return [row for key in ('ap50', 'ap75') for row in found.rows('detect', key, key.upper(), arms)]

    border = minus(found.values('detect', 'dwsep', 'angle_border'), found.values('detect', 'plain_l1', 'angle_border'))
    boxes = f'mean angle error in degrees, {found.first("detect", "dwsep")["border_boxes"]} boxes at the border'
    angles = dict(angle_border=boxes, angle='mean angle error in degrees, all boxes')
    angles['found'] = 'share of boxes with a detection at their center'
    return [
        cost_claim(found),
        Claim(
            'The convolutional encoder detects as well as the attention that it replaces',
            source,
            f'AP50 not more than {NEAR} below the deformable encoder, and above no encoder',
            [compare('dwsep', 'deformable', 'ap50', 'AP50', above=-NEAR), compare('dwsep', 'none', 'ap50', 'AP50')],
            aps('dwsep', 'deformable', 'none'),
        ),
        Claim(
            'Exchange between neighboring levels helps the convolutional encoder',
            'not in the paper; it was our default until this experiment',
            'higher AP50 than with the levels apart',
            [compare('exchange', 'dwsep', 'ap50', 'AP50')],
            aps('exchange', 'dwsep'),
        ),
        Claim(
            'A periodic angle in loss and matching helps where the range of angles ends',
            'not in the paper: our decision',
            'smaller error than plain L1 for boxes within 10° of 0° and 180°',
            [Comparison('wrapped minus plain L1', boxes, border, below=0)],
            [row for key, text in angles.items() for row in found.rows('detect', key, text, ('dwsep', 'plain_l1'))],
        ),
        Claim(
            'Fine-tuning a head on O²DETR in a cascade improves it',
            source,
            f'{MORE_ITERS} iterations of the cascade on the frozen base: higher AP75 than as many more of the base',
            [compare('cascade', 'longer', 'ap75', 'AP75')],
            aps('cascade', 'longer', 'dwsep'),
        ),
        Claim(
            'O²DETR is better than RetinaNet',
            source,
            f'higher AP50 than Rotated RetinaNet, same backbone and iterations, {SIZE}x{SIZE} pixels',
            [compare('dwsep', 'retinanet', 'ap50', 'AP50')],
            [
                *aps('dwsep', 'retinanet'),
                *found.rows('detect', 'parameters', 'million parameters', ('dwsep', 'retinanet')),
            ],
        ),
    ]


EXPERIMENT = Experiment(
    tasks=dict(
        detect=Task(
            detect,
            tuple(ARMS),
            (0, 1),
            minutes=4.0,
            after={arm: ARMS[arm]['start'] for arm in ARMS if 'start' in ARMS[arm]},
        ),
        costs=Task(costs, tuple(KINDS), minutes=0.5),
    ),
    claims=claims,
    prepare=prepare,
    packages=('scikit-learn',),
)
