"""Do more training shots help robust MAML? On Omniglot and on turned digits, small enough for two CPU cores.

A network of 8,533 weights is meta-trained in twenty-one settings on drawings of Omniglot (``omniglot28.npz`` of
``--data``, default tests/data/omniglot; tools/data/omniglot_samples.py packs all alphabets) and in four on
scikit-learn's digits. All are tested on the same 1,000 tasks with 1 shot. What APGD and Square find is left out without
torchattacks.
"""

import functools
from pathlib import Path

from mmengine.runner import find_latest_checkpoint

from experiments import ROOT
from experiments.frame.claims import Claim, Found, Values, minus
from experiments.frame.experiment import Experiment
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.its_maml import masking
from experiments.its_maml.arms import ARMS, base_config
from experiments.its_maml.figure import draw
from mmplugins.its_maml.verbs.loading import load_model
from mmplugins.its_maml.verbs.sweep import arm_config, run_arm

UPDATES, TASKS, MASKING_TASKS = 800, 1000, 20
TRAINED = 95.0  # clean accuracy, percent, that Omniglot 5-way 1-shot is known to pass when trained to the end
SHOTS = ('R-MAML, 1 shot', 'ITS-MAML, 2 shots', 'ITS-MAML, 3 shots', 'ITS-MAML, 5 shots')
ITS, PLAIN, MAML, MAML5, LONGER, LONGEST = (
    'ITS-MAML, 5 shots', 'R-MAML, 1 shot', 'MAML, 1 shot', 'MAML, 5 shots', 'R-MAML, 1 shot, 1.35 times the updates',
    'R-MAML, 1 shot, twice the updates',
)  # fmt: skip
ENDS = tuple(f'{name}, ten times the updates' for name in (MAML, PLAIN, ITS))
ENDS_BY_COST = f'{PLAIN}, 13.5 times the updates'
LEARNERS = ('ANIL, 1 shot', 'R-ANIL, 1 shot', 'ProtoNet, 1 shot', 'R-ProtoNet, 1 shot', 'ITS-ProtoNet, 5 shots')
METRICS = {
    'clean': 'clean accuracy, %',
    'pgd10': 'accuracy under PGD-10, %',
    'id_pca90': 'dimension (PCA, 90 %) of clean features, one list of images',
    'id_noise': 'dimension (PCA, 90 %) of what the attack adds, mean over tasks',
}
FEW_POINTS = 3.0  # how much robustness may be lost, in points: "little" in the abstract
BOTH = ('omniglot', 'digits')


def meta_train(arm: str, seed: int, context: Context, data: str) -> dict:
    """Meta-train and meta-test an arm; R-MAML on Omniglot is tested under more attacks."""
    settings = dict(ARMS[data][arm], seed=seed)
    updates, tasks = (2, 2) if context.quick else (UPDATES, TASKS)
    updates = round(updates * settings.pop('longer', 1))
    base = base_config(data, context.data, tasks)
    base.model.type = settings.pop('learner', base.model.type)
    base.param_scheduler[0].T_max = updates
    cfg = arm_config(base, **settings, updates=updates)
    cfg.experiment_name = '_'.join((data, context.folder.parent.name, str(seed)))  # the loggers of mmengine are global
    row = run_arm(cfg, context.folder, **settings)
    if data == 'omniglot' and arm == PLAIN:
        row['masking'] = attacked_more(cfg, context)
    return dict(row, training_seconds=row['seconds'])  # the frame has its own seconds


def attacked_more(cfg, context: Context) -> dict:
    """Accuracies under the attacks of `masking`."""
    models = [
        load_model(find_latest_checkpoint(str(folder)))[0] for folder in (context.folder, context.of(MAML).folder)
    ]
    return masking.accuracies(cfg, *models, 1 if context.quick else MASKING_TASKS)


def claims(found: Found) -> list[Claim]:
    """What follows; each claim asks for both data sets where it names none."""

    def shown(key: str, *names: str, data: tuple[str, ...] = BOTH) -> list:
        return [row for each in data for row in found.rows(each, key, f'{METRICS[key]}, {each}', names)]

    def judged(key: str, *pairs: tuple[str, str], data: tuple[str, ...] = BOTH, **side: float) -> list:
        return [found.compare(d, *pair, key, f'{METRICS[key]}, {d}', **side) for d in data for pair in pairs]

    four, robust = (MAML, PLAIN, MAML5, ITS), ((PLAIN, MAML), (ITS, MAML5))
    omniglot = functools.partial(shown, data=('omniglot',))
    only = dict(data=('omniglot',))
    return [
        Claim(
            'Robust training costs clean accuracy: the premise',
            'abstract',
            'clean accuracy of R-MAML below MAML, 1 training shot, Omniglot; under attack above',
            [*judged('clean', (PLAIN, MAML), below=0, **only), *judged('pgd10', (PLAIN, MAML), **only)],
            [*omniglot('clean', MAML, PLAIN), *omniglot('pgd10', MAML, PLAIN)],
        ),
        Claim(
            'Robust training costs clean accuracy where MAML is trained to the end',
            'abstract',
            f'ten times the updates, Omniglot: clean accuracy of MAML above {TRAINED:g} %, of R-MAML below MAML',
            [
                Comparison(ENDS[0], METRICS['clean'], found.values('omniglot', ENDS[0], 'clean'), above=TRAINED),
                *judged('clean', ENDS[1::-1], below=0, **only),
            ],
            [row for key in METRICS for row in omniglot(key, *ENDS[:2])],
        ),
        Claim(
            'More training shots raise clean accuracy where R-MAML is trained to the end (ours to ask)',
            'ours',
            'ten times the updates, Omniglot: clean accuracy of 5 shots above 1 shot, with as many updates and with as '
            f'many processor seconds; under attack not more than {FEW_POINTS:g} points below',
            [
                *judged('clean', (ENDS[2], ENDS[1]), (ENDS[2], ENDS_BY_COST), **only),
                *judged('pgd10', (ENDS[2], ENDS[1]), (ENDS[2], ENDS_BY_COST), above=-FEW_POINTS, **only),
            ],
            [
                *(row for key in METRICS for row in omniglot(key, ENDS[1], ENDS_BY_COST, ENDS[2])),
                *found.time_over('omniglot', ENDS[2], (ENDS[1], ENDS_BY_COST), 'training_seconds'),
            ],
        ),
        Claim(
            'Robustness is not masked gradients (ours to ask)',
            'control',
            'R-MAML, Omniglot: 50 steps of PGD find no more than 3 points beyond 10, twice the radius more than one, '
            'and images found on MAML less than its own',
            [
                masked(found, 'PGD-50', 'PGD-10', above=-FEW_POINTS),
                masked(found, 'PGD-10, twice the radius', 'PGD-10', below=0),
                masked(found, masking.TRANSFER, 'PGD-10', above=0),
            ],
            [
                found.row('omniglot', PLAIN, f'masking.{name}', f'accuracy on {MASKING_TASKS} tasks, %', name)
                for name in ('clean', *masking.STRONGER)
            ],
        ),
        Claim(
            'Robust training costs other learners clean accuracy as well (ours to ask)',
            'ours',
            'clean accuracy of R-ANIL below ANIL and of R-ProtoNet below ProtoNet, Omniglot; under attack above',
            [
                each
                for key, side in (('clean', dict(below=0)), ('pgd10', dict(above=0)))
                for each in judged(key, LEARNERS[1::-1], LEARNERS[3:1:-1], **only, **side)
            ],
            [
                *(row for key in ('clean', 'pgd10') for row in omniglot(key, MAML, PLAIN, *LEARNERS)),
                *found.time_over('omniglot', MAML, (PLAIN, *LEARNERS), 'training_seconds'),
            ],
        ),
        Claim(
            'The adversarial term makes robust, before anything else',
            'sanity',
            'accuracy under attack of R-MAML above MAML, 1 and 5 training shots, both data sets',
            judged('pgd10', *robust),
            shown('pgd10', *four),
        ),
        Claim(
            'The adversarial term lowers the intrinsic dimension of clean features',
            'abstract',
            'dimension of R-MAML below MAML, 1 and 5 training shots, both data sets',
            judged('id_pca90', *robust, below=0),
            shown('id_pca90', *four),
        ),
        Claim(
            'More training shots raise clean accuracy',
            'abstract',
            'clean accuracy of 5 shots above 1 shot with the adversarial term, both data sets',
            judged('clean', (ITS, PLAIN)),
            [*omniglot('clean', *SHOTS), *shown('clean', PLAIN, ITS, data=('digits',))],
        ),
        Claim(
            'More training shots lose little robustness',
            'abstract',
            f'accuracy under attack of 5 shots not more than {FEW_POINTS:g} points below 1 shot, both data sets',
            judged('pgd10', (ITS, PLAIN), above=-FEW_POINTS),
            omniglot('pgd10', *SHOTS),
        ),
        Claim(
            'More training shots raise the intrinsic dimension of clean features',
            'abstract',
            'dimension of 5 shots above 1 shot with the adversarial term, both data sets',
            judged('id_pca90', (ITS, PLAIN)),
            omniglot('id_pca90', *SHOTS),
        ),
        Claim(
            'More training shots raise the intrinsic dimension of the adversarial noise',
            'public reviews',
            'dimension of 5 shots above 1 shot with the adversarial term, both data sets',
            judged('id_noise', (ITS, PLAIN)),
            [*omniglot('id_noise', *SHOTS), *shown('id_noise', PLAIN, ITS, data=('digits',))],
        ),
        Claim(
            'It is not a matter of cost (ours to ask)',
            'control',
            'both accuracies of 5 shots above 1 shot with as many processor seconds of training, Omniglot',
            [each for key in ('clean', 'pgd10') for each in judged(key, (ITS, LONGER), data=('omniglot',))],
            [
                *(row for key in ('clean', 'pgd10') for row in omniglot(key, PLAIN, LONGER, LONGEST, ITS)),
                *found.time_over('omniglot', ITS, (PLAIN, LONGER, LONGEST), 'training_seconds'),
            ],
        ),
        Claim(
            'The gain of more shots is larger with the adversarial term than without (ours to ask)',
            'control',
            'clean accuracy: 5 shots minus 1 shot, R-MAML above MAML, both data sets',
            [
                Comparison(
                    'gain of R-MAML minus gain of MAML', f'{METRICS["clean"]}, {data}', gain(found, data), above=0
                )
                for data in BOTH
            ],
            shown('clean', *four),
        ),
        Claim(
            'More training shots make meta-training less sensitive to the number of inner steps',
            'abstract',
            'range of both accuracies over 1, 2 and 5 steps in training smaller with 5 shots than 1, Omniglot',
            [
                Comparison('range of 5 shots minus range of 1 shot', METRICS[key], narrower(found, key), below=0)
                for key in ('clean', 'pgd10')
            ],
            [row for key in ('clean', 'pgd10') for name in (PLAIN, ITS) for row in omniglot(key, *by_steps(name))],
        ),
    ]


def masked(found: Found, ours: str, theirs: str, **side: float) -> Comparison:
    """Judge the accuracy of R-MAML under one attack minus that under another."""
    values = minus(*(found.values('omniglot', PLAIN, f'masking.{name}') for name in (ours, theirs)))
    return Comparison(f'{ours} minus {theirs}', f'accuracy on {MASKING_TASKS} tasks, %', values, **side)


def gain(found: Found, data: str) -> Values:
    """By how much the gain in clean accuracy is larger with the adversarial term."""
    return minus(found.difference(data, ITS, PLAIN, 'clean'), found.difference(data, MAML5, MAML, 'clean'))


def by_steps(name: str) -> tuple[str, ...]:
    """The arms with 1, 2 and 5 inner steps."""
    return f'{name}, 1 step', name, f'{name}, 5 steps'


def spread(found: Found, name: str, key: str) -> Values:
    """Range over 1, 2 and 5 inner steps."""
    each = [found.values('omniglot', arm, key) for arm in by_steps(name)]
    all_have = set.intersection(*map(set, each))
    return {seed: max(v[seed] for v in each) - min(v[seed] for v in each) for seed in sorted(all_have)}


def narrower(found: Found, key: str) -> Values:
    """Range of 5 shots minus range of 1 shot."""
    return minus(spread(found, ITS, key), spread(found, PLAIN, key))


def pictures(found: Found, context: Context, folder: Path) -> None:
    """Accuracy and dimension over shots and steps, once every arm has run."""
    if all(set(found.results.get(data, ())) == set(arms) for data, arms in ARMS.items()):
        draw(found, folder / 'shots.png')


EXPERIMENT = Experiment(
    tasks={
        data: Task(
            functools.partial(meta_train, data=data),
            tuple(arms),
            (0, 1, 2),
            minutes={arm: 1.5 + 0.9 * setting.get('longer', 1) for arm, setting in arms.items()},
            after={PLAIN: MAML} if data == 'omniglot' else {},
        )
        for data, arms in ARMS.items()
    },
    claims=claims,
    finish=pictures,
    data=ROOT / 'tests/data/omniglot',
    packages=('scikit-learn', 'torchattacks'),
)
