"""Claims of CAE (arXiv 2202.03026) and CAE v2 (arXiv 2211.09799) on real handwritten digits, for two CPU cores.

Probes see the mean of the patch tokens, or all of them side by side, standardized as the batch norm of the paper's
linear probe does: logistic regression on all labels and on ten labels a class (mean of five draws), and the ten nearest
neighbors.
"""

import json
from collections.abc import Sequence

from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from experiments.cae.arms import ARMS, measure
from experiments.cae.digits import Digits, fit_teacher, fit_tokenizer
from experiments.frame.claims import Claim, Found, Row, Values, minus
from experiments.frame.experiment import Experiment
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from mmplugins.utils.atomic import write_text

PROBES = ('10-shot', '10-NN', 'all labels')
FEW = PROBES[:2]
RANDOM, PIXELS = 'random init', 'raw pixels'
V1, VISIBLE, MASKED, BOTH = 'CAE v1', 'CAE v2, visible', 'CAE v2, masked', 'CAE v2, both'
SUPERVISED = 'supervised, 10 labels a class'


def prepare(context: Context) -> None:
    """Fit the frozen targets.

    Raises:
        SystemExit: The teacher is too bad to stand for CLIP.
    """
    file = context.work / 'teacher.json'
    if not file.is_file():
        digits = Digits()
        fit_tokenizer(digits, context.work / 'tokens.npz')
        accuracy = fit_teacher(digits, context.work / 'teacher.pth', 2 if context.quick else 30)
        write_text(file, json.dumps(accuracy))
    accuracy = json.loads(file.read_text(encoding='utf-8'))
    if accuracy < 0.95 and not context.quick:
        raise SystemExit(f'the teacher has {accuracy:.3f} on the test digits, too few to stand for CLIP')


def pretrain(arm: str, seed: int, context: Context) -> dict:
    """Pretrain and probe an arm."""
    MMLogger.get_instance('mmengine', log_level='ERROR')
    init_default_scope('mmpretrain')
    return measure(arm, seed, context.work, 0.05 if context.quick else 1.0)


def claims(found: Found) -> list[Claim]:
    """What follows."""

    def ahead(ours: str, theirs: str, probes: Sequence[str] = FEW, features: str = 'mean', above: float = 0) -> list:
        keys = {f'{features}.{probe}': f'{probe}, points' for probe in probes}
        return [found.compare('digits', ours, theirs, key, text, above=above) for key, text in keys.items()]

    def rows(*arms: str, probes: Sequence[str] = PROBES, features: str = 'mean') -> list[Row]:
        return [row for probe in probes for row in found.rows('digits', f'{features}.{probe}', f'{probe} (%)', arms)]

    def steeper(probe: str) -> Values:
        drops = {dim: found.difference('digits', ratio[dim, 5], ratio[dim, 16], f'mean.{probe}') for dim in (12, 64)}
        return minus(drops[12], drops[64])

    ratio = {(dim, masked): f'CAE v2, width {dim}, {masked} of 36 masked' for dim in (12, 64) for masked in (5, 16)}
    accuracy = found.values('digits', SUPERVISED, 'mean.accuracy')
    probe = minus(found.values('digits', VISIBLE, 'mean.10-shot'), accuracy)
    parts = ('CAE v1, no alignment', 'CAE v1, no decoder', 'CAE v1, neither')
    return [
        Claim(
            'Pretraining helps: probes of CAE v1 and of CAE v2 are above the same encoder at random init',
            'both papers',
            'at least 5 points ahead on 10-shot and 10-NN',
            [each for arm in (V1, VISIBLE) for each in ahead(arm, RANDOM, above=5)],
            rows(RANDOM, V1, VISIBLE),
        ),
        *(
            Claim(
                f'The features of {title}, averaged over all places, are also above the raw pixels',
                'ours',
                'ahead on 10-shot and 10-NN',
                ahead(arm, PIXELS),
                rows(PIXELS, arm),
            )
            for title, arm in (('CAE v2', VISIBLE), ('CAE v1', V1))
        ),
        *(
            Claim(
                f'The tokens of {title}, side by side as the pixels are, are above the raw pixels and random init',
                'ours',
                'ahead of both on 10-shot and 10-NN',
                [each for other in (PIXELS, RANDOM) for each in ahead(arm, other, features='all_tokens')],
                rows(PIXELS, RANDOM, arm, features='all_tokens'),
            )
            for title, arm in (('CAE v2', VISIBLE), ('CAE v1', V1))
        ),
        Claim(
            'Supervision of visible tokens alone beats that of masked tokens alone',
            'abstract of CAE v2',
            'visible above masked on 10-shot and 10-NN',
            ahead(VISIBLE, MASKED),
            rows(VISIBLE, MASKED, BOTH),
        ),
        Claim(
            'The smaller the model, the lower the mask ratio that suits it: masking 44 % instead of 14 % costs the '
            'small student more than the large one',
            'abstract of CAE v2',
            'a larger drop at width 12 than at 64, on 10-shot and 10-NN',
            [
                Comparison('drop at width 12 minus drop at 64', f'{each}, points', steeper(each), above=0)
                for each in FEW
            ],
            rows(*ratio.values()),
        ),
        Claim(
            'Without the reconstruction CAE learns less',
            'CAE',
            'CAE above alignment only, on all three probes',
            ahead(V1, 'CAE v1, alignment only', PROBES),
            rows(V1, 'CAE v1, alignment only'),
        ),
        Claim(
            'Alignment and decoder each help',
            'CAE, +1.0 and +2.1 points of the linear probe there',
            'CAE above the same without either, on all labels',
            [each for part in parts[:2] for each in ahead(V1, part, PROBES[2:])],
            rows(V1, *parts),
        ),
        Claim(
            'With ten labels a class, a probe of CAE v2 beats the same encoder trained on those labels',
            'ours',
            '10-shot probe above supervised',
            [Comparison(f'10-shot probe minus {SUPERVISED}', 'points', probe, above=0)],
            [*rows(VISIBLE, probes=FEW[:1]), *rows(SUPERVISED, 'supervised, all labels', probes=('accuracy',))],
        ),
    ]


EXPERIMENT = Experiment(
    tasks=dict(digits=Task(pretrain, tuple(ARMS), (0, 1, 2), minutes=0.45)),
    claims=claims,
    prepare=prepare,
    packages=('scikit-learn',),
)
