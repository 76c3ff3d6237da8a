"""Claims of O²DETR (arXiv 2106.03146), small enough for two CPU cores.

`aerial`: the shipped small configs on real aerial frames, see `aerial.py`; the long tier, an hour and more of processor
time a seed. `detect`: the same models, made lighter, on turned handwritten digits, 150 images to test on. `encode`:
encoders where they matter, on large digits. AP is by the rules of mmrotate's ``DOTAMetric``, the area under the curve.
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
from experiments.o2detr import aerial
from experiments.o2detr.arms import ARMS, ENCODERS, MORE_ITERS, arm_config
from experiments.o2detr.data import SIZE, make_data
from experiments.o2detr.layers import EncoderCase
from experiments.o2detr.measure import test
from experiments.workloads.classify import count
from mmplugins.o2detr.verbs.diagnose import ROWS

ITERS, ENCODER_ITERS = 500, 1500
NEAR = 0.05  # "within a few points" of AP50, fixed before any run
KINDS = {'depthwise separable': 'ours', 'deformable': 'deformable', 'dense attention': 'dense, explicit'}
SIZES = tuple((dims, side) for dims in (64, 256) for side in (256, 512, 1024))


def prepare(context: Context) -> None:
    """Paint the images."""
    photos, scale = ROOT / 'tests/data/clothing10', 0.02 if context.quick else 1.0
    make_data(context.work / 'data', photos, scale)
    make_data(context.work / 'large', photos, scale, large=True)


def detect(arm: str, seed: int, context: Context) -> dict:
    """Train and test a detector."""
    init_default_scope('mmrotate')
    iters, base = 3 if context.quick else ITERS, ARMS[arm].get('start')
    start = base and context.of(base).folder / f'iter_{iters}.pth'
    steps = min(MORE_ITERS, iters) if base else iters
    runner = Runner.from_cfg(arm_config(ARMS[arm], context.work / 'data', context.folder, steps, seed, start))
    runner.train()
    return dict(**test(runner), parameters=count(runner.model) / 1e6)


def encode(arm: str, seed: int, context: Context) -> dict:
    """Train and test a detector with an encoder, on large digits."""
    init_default_scope('mmrotate')
    iters = 3 if context.quick else ENCODER_ITERS
    runner = Runner.from_cfg(arm_config(ENCODERS[arm], context.work / 'large', context.folder, iters, seed, None))
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
    first = found.first('costs', 'deformable') if 'costs' in found.results else {}
    cases = [case for case in first if case.startswith('D ')]
    for key, text in (('gflop', 'GFLOP of a layer'), ('mib', 'MiB kept for the backward pass')):
        for case in cases:
            for less, more in (('depthwise separable', 'deformable'), ('deformable', 'dense attention')):
                values = found.difference('costs', less, more, f'{case}.{key}')
                judged.append(Comparison(f'{less} minus {more}', f'{text}, {case}', values, below=0, exact=True))
            shown += found.rows('costs', f'{case}.{key}', f'{text}, {case}', tuple(KINDS))
    return Claim(
        'Depthwise separable convolution in the place of attention reduces memory and computation of the encoder',
        'abstract; small experiment of ours',
        'depthwise separable < deformable < dense attention with explicit weights, at every width and size',
        judged,
        shown,
    )


def aerial_claims(found: Found) -> list[Claim]:
    """What follows from the aerial frames; of every arm AP as it is and with NMS, and the rows of ``diagnose``."""
    compare = functools.partial(found.compare, 'aerial')
    plain, suppressed = 'rows.as it is', 'rows.NMS'

    def above(ours: str, theirs: str) -> list[Comparison]:
        """AP50 is higher, and AP75 is not lower by more than a point."""
        sides = dict(ap50={}, ap75=dict(above=-0.01))
        return [compare(ours, theirs, f'{plain}.{key}', key.upper(), **side) for key, side in sides.items()]

    def shown(*arms: str) -> list:
        texts = {f'{plain}.ap50': 'AP50', f'{suppressed}.ap50': 'AP50 with NMS', f'{plain}.ap75': 'AP75'}
        texts |= dict(iterations='iterations', parameters='million parameters')
        rows = [row for key, text in texts.items() for row in found.rows('aerial', key, text, arms)]
        return [row for row in (*rows, *found.time_over('aerial', 'default', arms)) if row.values]

    oracles = [
        row
        for name in ROWS
        for row in found.rows('aerial', f'rows.{name}.ap50', f'AP50, made right: {name}', ('base', 'default'))
        if row.values
    ]
    budget = 'aerial frames, 3,060 iterations'
    return [
        Claim(
            'O²DETR as it is shipped is better than RetinaNet, on aerial frames',
            'abstract (its base); small experiment of ours',
            f'{budget}: higher AP50 than Rotated RetinaNet with NMS, ours without; AP75 not lower by more than .01',
            above('default', 'retinanet'),
            shown('default', 'retinanet'),
        ),
        Claim(
            'O²DETR as it is shipped is better than Faster R-CNN, on aerial frames',
            'abstract (its base); small experiment of ours',
            f'{budget}: higher AP50 than Rotated Faster R-CNN with NMS, ours without; AP75 not lower by more than .01',
            above('default', 'faster_rcnn'),
            shown('default', 'faster_rcnn'),
        ),
        Claim(
            'O²DETR with its cascade is better than Faster R-CNN, on aerial frames',
            'abstract; small experiment of ours',
            f'{budget} and twelve epochs of the cascade: higher AP50, AP75 not lower by more than .01',
            above('cascade', 'faster_rcnn'),
            shown('cascade', 'faster_rcnn'),
        ),
        Claim(
            'What is ours in two stages, scores and L1 improves the base',
            'not in the paper: our decision',
            f'{budget}: higher AP50 with distinct proposals, tokens taught one to many, the IoU in scores and L1 to '
            'the nearer form of a rectangle than without; none with denoising',
            [compare('matched', 'base', f'{plain}.ap50', 'AP50')],
            [*shown('default', 'matched', 'base'), *oracles],
        ),
        Claim(
            'Denoising and positions that are recomputed improve it further',
            'not in the paper: as in DINO, our decision',
            f'{budget}: higher AP50 with denoising queries and positions embedded anew in each layer, AP75 not lower '
            'by more than .01',
            above('default', 'matched'),
        ),
        Claim(
            'The default needs no NMS',
            'abstract: end to end',
            f'{budget}: AP50 with NMS at most 0.01 higher than without',
            [
                Comparison(
                    'with NMS minus without',
                    'AP50 of the default',
                    minus(
                        found.values('aerial', 'default', f'{suppressed}.ap50'),
                        found.values('aerial', 'default', f'{plain}.ap50'),
                    ),
                    below=0.01,
                )
            ],
            shown('default'),
        ),
        Claim(
            'The base is as good as rotated Deformable DETR, on aerial frames',
            'abstract; small experiment of ours',
            f'{budget}, the same but for the encoder: AP50 not more than {NEAR} below',
            [compare('base', 'deformable', f'{plain}.ap50', 'AP50', above=-NEAR)],
            shown('base', 'deformable'),
        ),
        Claim(
            'The cascade improves the default, on aerial frames',
            'abstract; small experiment of ours',
            'twelve epochs of the cascade on the frozen default: higher AP50 and AP75 than as many more of the default '
            'without NMS',
            [
                compare('cascade', 'longer', f'{plain}.ap50', 'AP50'),
                compare('cascade', 'longer', f'{plain}.ap75', 'AP75'),
            ],
            shown('cascade', 'longer', 'default'),
        ),
        Claim(
            'The cascade needs the scores of the base beside those of its RoI head',
            'not in the paper: our decision',
            'higher AP50 and AP75 than by the scores of the RoI head alone, of the same weights',
            [
                Comparison(
                    'both minus RoI head alone',
                    key.upper(),
                    minus(
                        found.values('aerial', 'cascade', f'{plain}.{key}'),
                        found.values('aerial', 'cascade', f'alone.as it is.{key}'),
                    ),
                    above=0,
                )
                for key in ('ap50', 'ap75')
            ],
        ),
    ]


def claims(found: Found) -> list[Claim]:
    """What follows."""
    source = 'abstract; small experiment of ours'
    compare = functools.partial(found.compare, 'detect')

    def aps(*arms: str) -> list:
        return [row for key in ('ap50', 'ap75') for row in found.rows('detect', key, key.upper(), arms)]

    borders = found.values('detect', 'dwsep', 'border_boxes').values()
    border = minus(found.values('detect', 'dwsep', 'angle_border'), found.values('detect', 'plain_l1', 'angle_border'))
    boxes = f'mean angle error in degrees, {min(borders, default=0)} boxes at the border'
    angles = dict(angle_border=boxes, angle='mean angle error in degrees, all boxes')
    angles['found'] = 'share of boxes with a detection at their center'
    return [
        cost_claim(found),
        *aerial_claims(found),
        Claim(
            'The convolutional encoder detects as well as the attention that it replaces, where an encoder matters',
            source,
            f'large digits, one map whose cells see less than a digit: AP50 above no encoder, and not more than {NEAR} '
            'below the deformable one',
            [
                found.compare('encode', 'dwsep', 'none', 'ap50', 'AP50'),
                found.compare('encode', 'dwsep', 'deformable', 'ap50', 'AP50', above=-NEAR),
            ],
            [row for key in ('ap50', 'ap75') for row in found.rows('encode', key, key.upper(), tuple(ENCODERS))],
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
            [Comparison('nearer of the two forms, periodic, minus plain L1', boxes, border, below=0)],
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
            (0, 1, 2),
            minutes=4.0,
            after={arm: ARMS[arm]['start'] for arm in ARMS if 'start' in ARMS[arm]},
        ),
        encode=Task(encode, tuple(ENCODERS), (0, 1, 2), minutes=3.0),
        costs=Task(costs, tuple(KINDS), minutes=0.5),
        aerial=Task(
            aerial.aerial,
            tuple(aerial.ARMS),
            (0, 1, 2),
            minutes={arm: each['minutes'] for arm, each in aerial.ARMS.items()},
            after={arm: each['start'] for arm, each in aerial.ARMS.items() if 'start' in each},
        ),
    ),
    claims=claims,
    prepare=prepare,
    finish=aerial.record_models,
    packages=('scikit-learn',),
)
