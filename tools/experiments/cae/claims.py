"""Claims of CAE (arXiv 2202.03026) and CAE v2 (arXiv 2211.09799) on photos and handwritten digits, for two CPU cores.

The photos are the 800 of clothing10 in tests/data, tested on 341; ``--data <folder>`` takes another set of the same
layout (``{train,val}/<class>/*``), as flowers5 or CIFAR-10. Digits are the quick tier (``--only digits --out
projects/cae/results/digits``, so that the README shows the photos). Photos come in tiers, each less than 20 minutes of
two cores: ``--only pretraining``, ``parts`` or ``transfer``. Probes see the mean of the patch tokens, or all of
them side by side, standardized as the batch norm of the paper's linear probe does: logistic regression on all labels
and on ten labels a class (mean of five draws), and the ten nearest neighbors.
On photos encoders are also fine-tuned, from the weights that another arm has left.
"""

import functools
import json
from collections.abc import Sequence

from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from experiments.cae.arms import ARMS, DATA, MINUTES, STARTS, measure
from experiments.cae.targets import fit_teacher, fit_tokenizer
from experiments.frame.claims import Claim, Found, Row, Values, minus
from experiments.frame.experiment import Experiment
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.workloads.images import CLOTHING
from mmplugins.utils.atomic import write_text

PROBES = ('10-shot', '10-NN', 'all labels')
FEW = PROBES[:2]
RANDOM, PIXELS = 'random init', 'raw pixels'
V1, VISIBLE, MASKED, BOTH = 'CAE v1', 'CAE v2, visible', 'CAE v2, masked', 'CAE v2, both'
SUPERVISED = 'supervised, 10 labels a class'
SCRATCH, LONGER = 'supervised, all labels', 'supervised, all labels, steps of both phases'
RATIOS = {(dim, masked): f'CAE v2, width {dim}, {masked} of 36 masked' for dim in (12, 64) for masked in (5, 16)}
PARTS = ('CAE v1, alignment only', 'CAE v1, no alignment', 'CAE v1, no decoder', 'CAE v1, neither')
CONTROLS = ('CAE v2, nearly no mask', 'CAE v2, no labels in the target', 'teacher itself')
TIERS = dict(
    pretraining=(RANDOM, PIXELS, V1, VISIBLE, MASKED, BOTH, *CONTROLS),
    parts=(V1, *PARTS, *RATIOS.values()),
    transfer=(VISIBLE, SUPERVISED, SCRATCH, LONGER, *STARTS.values(), *STARTS),
)
LEAST = dict(digits=0.95, photos=0.3)  # of a teacher that can stand for CLIP


def prepare(context: Context) -> None:
    """Fit the frozen targets of both sets.

    Raises:
        SystemExit: A teacher is too bad to stand for CLIP.
    """
    for task, kind in DATA.items():
        folder = context.work / f'{task}.targets'
        file = folder / 'teacher.json'
        if not file.is_file():
            data = kind(context.data)
            fit_tokenizer(data, folder / 'tokens.npz')
            accuracy = fit_teacher(data, folder / 'teacher.pth', 2 if context.quick else 30)
            write_text(file, json.dumps(accuracy))
        accuracy = json.loads(file.read_text(encoding='utf-8'))
        if accuracy < LEAST[task] and not context.quick:
            raise SystemExit(f'the teacher has {accuracy:.3f} on the test {task}, too few to stand for CLIP')


def pretrain(arm: str, seed: int, context: Context, task: str) -> dict:
    """Pretrain and probe an arm."""
    MMLogger.get_instance('mmengine', log_level='ERROR')
    init_default_scope('mmpretrain')
    return measure(arm, seed, context, task)


def claims(found: Found) -> list[Claim]:
    """What follows."""
    photos = [*claims_of(found, 'photos', 'On photos: '), *transfer(found), *controls(found)]
    return photos + claims_of(found, 'digits', '')


def transfer(found: Found) -> list[Claim]:
    """What fine-tuning gains from a pretraining; all arms have the same recipe and see the same batches."""
    v1, v2, no_labels = STARTS

    def against(other: str, *arms: str) -> list[Comparison]:
        return [found.compare('photos', arm, other, 'mean.accuracy', 'top-1, points') for arm in arms]

    return [
        Claim(
            'On photos: fine-tuning from CAE v1 and from CAE v2 ends above the same training from random init',
            'both papers',
            'ahead at as many steps',
            against(SCRATCH, v1, v2),
            found.rows('photos', 'mean.accuracy', 'top-1 (%)', (SCRATCH, v1, v2)),
        ),
        Claim(
            'On photos: the same holds if random init trains for as many steps as both phases together, and if the '
            'teacher has seen no labels',
            'ours',
            'CAE v1 at as many steps in all, and CAE v2 with histograms of gradients at fewer, are ahead',
            against(LONGER, v1, no_labels),
            found.rows('photos', 'mean.accuracy', 'top-1 (%)', (LONGER, v1, no_labels)),
        ),
    ]


def controls(found: Found) -> list[Claim]:
    """What the masks, and the labels that the teacher has seen, have to do with it; on photos."""

    def against(ours: str, theirs: str) -> list[Comparison]:
        return [found.compare('photos', ours, theirs, f'mean.{probe}', f'{probe}, points') for probe in FEW]

    def rows(*arms: str) -> list[Row]:
        return [row for probe in PROBES for row in found.rows('photos', f'mean.{probe}', f'{probe} (%)', arms)]

    no_mask, no_labels, teacher = CONTROLS
    return [
        Claim(
            'On photos: masks help, beyond learning from the teacher',
            'ours',
            'half of the patches masked above one masked, on 10-shot and 10-NN',
            against(VISIBLE, no_mask),
            rows(VISIBLE, no_mask, teacher),
        ),
        Claim(
            'On photos: CAE v2 learns without any label too, from histograms of gradients',
            'ours',
            'above random init on 10-shot and 10-NN',
            against(no_labels, RANDOM),
            rows(RANDOM, no_labels, VISIBLE),
        ),
        Claim(
            'On photos: With ten labels a class, a probe of CAE beats the same encoder trained on those labels',
            'ours',
            '10-shot probe (mean of five draws) of CAE v1, and of CAE v2 with histograms of gradients, above '
            'supervised; the teacher of the other CAE v2 has seen all labels, so that one is only shown',
            [
                Comparison(
                    f'{arm}, 10-shot, minus {SUPERVISED}',
                    'points',
                    minus(
                        found.values('photos', arm, 'mean.10-shot'),
                        found.values('photos', SUPERVISED, 'mean.accuracy'),
                    ),
                    above=0,
                )
                for arm in (V1, no_labels)
            ],
            [
                *found.rows('photos', 'mean.10-shot', '10-shot (%)', (V1, no_labels, VISIBLE)),
                found.row('photos', SUPERVISED, 'mean.accuracy', 'top-1 (%)'),
            ],
        ),
    ]


def claims_of(found: Found, task: str, where: str) -> list[Claim]:
    """What follows on one set; ``where`` stands before each sentence."""

    def ahead(ours: str, theirs: str, probes: Sequence[str] = FEW, features: str = 'mean', above: float = 0) -> list:
        keys = {f'{features}.{probe}': f'{probe}, points' for probe in probes}
        return [found.compare(task, ours, theirs, key, text, above=above) for key, text in keys.items()]

    def rows(*arms: str, probes: Sequence[str] = PROBES, features: str = 'mean') -> list[Row]:
        return [row for probe in probes for row in found.rows(task, f'{features}.{probe}', f'{probe} (%)', arms)]

    def steeper(probe: str) -> Values:
        drops = {dim: found.difference(task, RATIOS[dim, 5], RATIOS[dim, 16], f'mean.{probe}') for dim in (12, 64)}
        return minus(drops[12], drops[64])

    return [
        Claim(
            f'{where}Pretraining helps: probes of CAE v1 and of CAE v2 are above the same encoder at random init',
            'both papers',
            'at least 5 points ahead on 10-shot and 10-NN',
            [each for arm in (V1, VISIBLE) for each in ahead(arm, RANDOM, above=5)],
            rows(RANDOM, V1, VISIBLE),
        ),
        *(
            Claim(
                f'{where}The features of {title}, averaged over all places, are also above the raw pixels',
                'ours',
                'ahead on 10-shot and 10-NN',
                ahead(arm, PIXELS),
                rows(PIXELS, arm),
            )
            for title, arm in (('CAE v2', VISIBLE), ('CAE v1', V1))
        ),
        *(
            Claim(
                f'{where}The tokens of {title}, side by side as the pixels are, are above the raw pixels and random '
                'init',
                'ours',
                'ahead of both on 10-shot and 10-NN',
                [each for other in (PIXELS, RANDOM) for each in ahead(arm, other, features='all_tokens')],
                rows(PIXELS, RANDOM, arm, features='all_tokens'),
            )
            for title, arm in (('CAE v2', VISIBLE), ('CAE v1', V1))
        ),
        Claim(
            f'{where}Supervision of visible tokens alone beats that of masked tokens alone',
            'abstract of CAE v2',
            'visible above masked on 10-shot and 10-NN',
            ahead(VISIBLE, MASKED),
            rows(VISIBLE, MASKED, BOTH),
        ),
        Claim(
            f'{where}The smaller the model, the lower the mask ratio that suits it: masking 44 % instead of 14 % costs '
            'the small student more than the large one',
            'abstract of CAE v2',
            'a larger drop at width 12 than at 64, on 10-shot and 10-NN',
            [
                Comparison('drop at width 12 minus drop at 64', f'{each}, points', steeper(each), above=0)
                for each in FEW
            ],
            rows(*RATIOS.values()),
        ),
        Claim(
            f'{where}Without the reconstruction CAE learns less',
            'CAE',
            'CAE above alignment only, on all three probes',
            ahead(V1, PARTS[0], PROBES),
            rows(V1, PARTS[0]),
        ),
        Claim(
            f'{where}Alignment and decoder each help',
            'CAE, +1.0 and +2.1 points of the linear probe there',
            'CAE above the same without either, on all labels',
            [each for part in PARTS[1:3] for each in ahead(V1, part, PROBES[2:])],
            rows(V1, *PARTS[1:]),
        ),
    ]


EXPERIMENT = Experiment(
    tasks=dict(
        photos=Task(
            functools.partial(pretrain, task='photos'),
            tuple(ARMS),
            (0, 1, 2),
            minutes={name: arm.get('minutes', MINUTES[arm['kind']]) for name, arm in ARMS.items()},
            after=STARTS,
        ),
        digits=Task(
            functools.partial(pretrain, task='digits'),
            tuple(arm for arm in ARMS if arm not in (*CONTROLS, *STARTS, SUPERVISED, LONGER)),
            (0, 1, 2),
            minutes=0.45,
        ),
    ),
    claims=claims,
    prepare=prepare,
    data=CLOTHING,
    packages=('scikit-learn',),
    tiers={tier: [f'photos/{arm}' for arm in arms] for tier, arms in TIERS.items()},
)
