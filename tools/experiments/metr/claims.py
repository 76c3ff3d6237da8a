"""Five claims of METR (arXiv 2304.03580) on real handwritten digits, small enough for two CPU cores.

All full arms train for the same number of iterations with the same batch size, and are evaluated on 200 fully annotated
images. AP50 is pycocotools'. Whether joint training is good for a set is judged at equal exposure: a set alone trains
half the iterations, so that its images are seen as often; as many iterations are the control. There all names are kept
at test in all arms, because five of six are not what five of ten are.
"""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from mmdet.utils import register_all_modules
from mmengine.runner import Runner

from experiments import ROOT
from experiments.frame.claims import Claim, Found, Row, Values, minus
from experiments.frame.experiment import Experiment
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.metr.data import DIGITS, NEW, SHARED, SINGLE, A, B, make_sets
from experiments.metr.evaluate import CONFUSION_SCORE, test
from experiments.metr.model import TOP_K, run_config

ITERS, FINETUNE_ITERS = 600, 150
# Arm: sets, what differs from METR, the arm it starts from, iterations.
ARMS = dict(
    joint=dict(sets=('a', 'b'), all_names=True),
    joint_unmasked=dict(sets=('a', 'b'), overrides=dict(mask_unannotated=False)),
    blind=dict(sets=('a', 'b'), overrides=dict(assigner='CategoryBlindAssigner')),
    random=dict(sets=('a', 'b'), overrides=dict(cem='RandomRetention')),
    pretrain=dict(sets=('old_a', 'old_b')),
    finetune=dict(sets=('new',), iters=FINETUNE_ITERS, start='pretrain'),
    pretrain_one=dict(sets=('old_a',)),
    finetune_one=dict(sets=('new',), iters=FINETUNE_ITERS, start='pretrain_one'),
    scratch=dict(sets=('new',), iters=FINETUNE_ITERS),
    only_a=dict(sets=('a',), all_names=True),
    only_b=dict(sets=('b',), all_names=True),
    half_a=dict(sets=('a',), iters=ITERS // 2, all_names=True),
    half_b=dict(sets=('b',), iters=ITERS // 2, all_names=True),
    scratch_long=dict(sets=('new',), iters=ITERS + FINETUNE_ITERS),
)
AFTER = {name: arm['start'] for name, arm in ARMS.items() if 'start' in arm}
SOURCE = 'abstract; small experiment of ours'


def prepare(context: Context) -> None:
    """Paint the images."""
    make_sets(context.work / 'data', ROOT / 'tests/data/bccd', scale=0.02 if context.quick else 1.0)


def detect(name: str, seed: int, context: Context) -> dict:
    """Train and test an arm."""
    register_all_modules()
    arm = ARMS[name]
    iters = 3 if context.quick else arm.get('iters', ITERS)
    start = 'start' in arm and next(context.of(arm['start']).folder.glob('iter_*.pth'))
    data, overrides = context.work / 'data', arm.get('overrides', {})
    cfg = run_config(data, context.folder, arm['sets'], iters, seed, str(start) if start else None, **overrides)
    cfg.experiment_name = f'{name}_{seed}'
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        runner = Runner.from_cfg(cfg)
        runner.train()
        result = test(runner, cfg)
        if arm.get('all_names'):  # the same weights without any selection: every name gets queries
            runner.model.num_categories = len(DIGITS)
            result['all_names'] = test(runner, cfg)
    return dict(result, cem_recall={str(k): value for k, value in enumerate(result['cem_recall'], start=1)})


class Detections:
    """What was found, in the words of the claims."""

    def __init__(self, found: Found) -> None:
        self.found = found

    def ap(self, arm: str, names: Sequence[str], test: str = '') -> Values:
        """Mean AP50 of some names, by seed; ``test`` is an arm's second test."""
        each = [self.found.values('detect', arm, f'{test}ap50.{name}') for name in names]
        return {seed: mean(values[seed] for values in each) for seed in each[0]}

    def ap_row(self, name: str, metric: str, arm: str, names: Sequence[str], test: str = '') -> Row:
        """The same, to be shown."""
        return Row(name, metric, self.ap(arm, names, test))

    def compare(
        self, name: str, metric: str, names: Sequence[str], ours: str, theirs: str, slack: float = 0, test: str = ''
    ) -> Comparison:
        """Judge the difference in AP50."""
        return Comparison(name, metric, minus(self.ap(ours, names, test), self.ap(theirs, names, test)), above=-slack)


def joint_claims(see: Detections) -> list[Claim]:
    """Training on several sets."""
    eight, judged, longer, shown, every = 'AP50, eight names that one set annotates', [], [], [], 'all_names.'
    for text, names in (('A', A), ('B', B)):
        one, half = f'only_{text.lower()}', f'half_{text.lower()}'
        for metric, chosen, slack in ((f'AP50, names of {text}', names, 0.02), ('AP50, two shared names', SHARED, 0)):
            judged.append(see.compare(f'joint minus {text} only', metric, chosen, 'joint', half, slack, every))
            name = f'joint minus {text} only, as many iterations'
            longer.append(see.compare(name, metric, chosen, 'joint', one, slack, every))
            shown += [
                see.ap_row('joint', metric, 'joint', chosen, every),
                see.ap_row(f'{text} only, its images as often as joint sees them', metric, half, chosen, every),
                see.ap_row(f'control: {text} only, as many iterations, so twice as often', metric, one, chosen, every),
                see.ap_row(f'control: joint, {TOP_K} of the ten names kept at test', metric, 'joint', chosen),
            ]
    masked = ('joint', 'joint_unmasked')
    return [
        Claim(
            'Datasets with different label spaces are pretrained jointly, although objects that only another set '
            'annotates are in the images',
            SOURCE,
            'leaving un-annotated names out of the losses (ours, not in the paper) gives a higher AP50 than taking '
            'them as absent (the released code)',
            [see.compare('masked minus not masked', eight, SINGLE, *masked)],
            [see.ap_row(name, eight, arm, SINGLE) for name, arm in zip(('masked', 'not masked'), masked, strict=True)],
        ),
        Claim(
            'Joint training on several datasets is good for each',
            SOURCE,
            'each set seen equally often: joint is not worse (by more than 0.02 AP50) on the names of each set, and '
            'better on the two shared names',
            judged,
            list({(row.name, row.metric): row for row in shown}.values()),
        ),
        Claim(
            'Joint training is good for each at as many iterations too, in which one set alone is seen twice as often',
            'ours: control',
            'joint is not worse (by more than 0.02 AP50) on the names of each set, and better on the two shared names',
            longer,
        ),
    ]


def claims(found: Found) -> list[Claim]:
    """What follows."""
    see, everything = Detections(found), 'AP50, ten names'
    recall = f'recall of present names among the {TOP_K} kept'
    wrong = dict(
        best_wrong='wrong name of the best detection of a found box',
        confusion=f'wrong name among detections in the right place, score ≥ {CONFUSION_SCORE}',
    )
    new = 'AP50, three names that pretraining never saw'
    others = {
        'from scratch': 'scratch',
        'from scratch, as many iterations': 'scratch_long',
        'pretrained on one': 'finetune_one',
    }
    return [
        *joint_claims(see),
        Claim(
            'Group bipartite matching: a box may match only queries of its category',
            SOURCE,
            'higher AP50 and less confusion than one matching that ignores categories',
            [
                see.compare('groups minus one matching', everything, DIGITS, 'joint', 'blind'),
                # The other has no value where an arm is sure of nothing.
                found.compare('detect', 'joint', 'blind', 'best_wrong', wrong['best_wrong'], below=0),
            ],
            [
                *(see.ap_row(arm, everything, arm, DIGITS) for arm in ('joint', 'blind')),
                *(row for key, text in wrong.items() for row in found.rows('detect', key, text, ('joint', 'blind'))),
            ],
        ),
        Claim(
            'The category extraction module finds the names that are in an image',
            SOURCE,
            'higher recall of present names and higher AP50 than names drawn at random',
            [
                found.compare('detect', 'joint', 'random', 'kept_recall', recall),
                see.compare('CEM minus random', everything, DIGITS, 'joint', 'random'),
            ],
            [
                *found.rows('detect', 'kept_recall', recall, ('joint', 'random')),
                *(see.ap_row(arm, everything, arm, DIGITS) for arm in ('joint', 'random')),
                see.ap_row('control: joint, all ten names kept at test', everything, 'joint', DIGITS, 'all_names.'),
                *(
                    found.row('detect', 'joint', f'cem_recall.{k}', f'recall of present names at K={k}', 'CEM')
                    for k in range(1, 11)
                ),
            ],
        ),
        Claim(
            'Pretraining on several datasets helps finetuning on another label space',
            SOURCE,
            f'{FINETUNE_ITERS} iterations on 60 images: higher AP50 than from scratch, than from scratch with as many '
            'iterations as both stages have, and than after as many iterations on one of the two datasets',
            [
                see.compare(f'pretrained on both minus {name}', new, NEW, 'finetune', arm)
                for name, arm in others.items()
            ],
            [see.ap_row(name, new, arm, NEW) for name, arm in {'pretrained on both': 'finetune', **others}.items()],
        ),
    ]


def pictures(found: Found, context: Context, folder: Path) -> None:
    """Draw how many present names are among the best K of the CEM."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    ks = range(1, 11)
    figure, panel = pyplot.subplots(figsize=(4.5, 3.2), layout='constrained')
    recall = [mean(found.values('detect', 'joint', f'cem_recall.{k}').values()) for k in ks]
    panel.plot(ks, recall, marker='o', label='CEM')
    panel.plot(ks, [k / 10 for k in ks], linestyle='--', label='random')
    panel.set(xlabel='K', ylabel='recall of present names', ylim=(0, 1.05), title='names kept by the CEM')
    panel.legend()
    figure.savefig(folder / 'recall.png', dpi=72)
    pyplot.close(figure)


EXPERIMENT = Experiment(
    tasks=dict(detect=Task(detect, tuple(ARMS), (0, 1, 2), minutes=2.3, after=AFTER)),
    claims=claims,
    prepare=prepare,
    finish=pictures,
    packages=('scikit-learn', 'pycocotools'),
)
