"""Does PRAE rank boxes better than plain fusion? Real detectors on PASCAL VOC2007 test, five sets, both halves.

The boxes are those of ``data.py``. One split by seed 0; intervals are bootstrapped over images. Weighted boxes fusion
is also tuned, on the same images as PRAE and by the same search. All cells of all sets go to ``compare.json``.
"""

import functools
import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean

import numpy as np

from experiments.frame.claims import Claim, Found, Row
from experiments.frame.experiment import Experiment
from experiments.frame.origin import origin
from experiments.frame.tasks import Context, Job, Task, run_job
from experiments.frame.verdict import Comparison
from experiments.prae.calibrated import RESAMPLES, calibration, calibration_claim
from experiments.prae.data import DATA, DETECTORS, load, smaller, with_weak_boxes
from mmplugins.prae import Calibration, FuseConfig, fit, fit_config
from mmplugins.prae.tuning.bootstrap import ResampledAP, bootstrap
from mmplugins.prae.tuning.folds import Fold, make_folds, pick
from mmplugins.prae.tuning.held_out import hold_out
from mmplugins.prae.tuning.search import tune
from mmplugins.prae.verbs.compare import METHODS, Method, calibrations, compare_set, markdown, run_method
from mmplugins.prae.verbs.plots import plot_precision_recall, plot_reliability
from mmplugins.utils.atomic import write_text

SETS = {
    'A': DETECTORS[:2],
    'B': DETECTORS[2:4],
    'C': ('yolov3_darknet', 'two_stage'),
    'D': DETECTORS[:4],
    'E': DETECTORS,
}
# Jobs of their own where there are many detectors, so that no job is long.
SEARCHES = {f'{label}, half {half}': (label, half) for label in 'DE' for half in (0, 1)}
PACKAGES = ('faster-coco-eval', 'pycocotools')
ALL = (
    *METHODS,
    Method('WBF .7', None, dict(iou_thr=0.7)),
    Method('official', 'official', {}, 'WBF .7'),
    Method('official, NMS', 'official', dict(head='nms', iou_thr=0.5), 'NMS'),
    Method('PRAE, NMS', 'robust', dict(head='nms', iou_thr=0.5), 'NMS'),
)
BY_NAME = {method.name: method for method in ALL}

COUNTS = (25, 50, 200)  # fit images; about 120 objects that count are on 50 of them
DRAWS = 2  # of fit images, in each half
FEW = {f'{label}, {count} fit images': (label, count) for label in 'AD' for count in COUNTS}
BANDIT = {theta: f'theta {theta}, no shrinkage' for theta in (0.0, 0.1, 0.5)}
FEW_METHODS = (
    *(BY_NAME[name] for name in ('WBF', 'WBF tuned', 'PRAE', 'PRAE tuned')),
    *(Method(name, 'robust', fit=dict(shrink=0.0, theta=theta)) for theta, name in BANDIT.items()),
)
FEW_PAIRS = (
    ('PRAE', 'WBF'),
    ('PRAE tuned', 'WBF tuned'),
    *((BANDIT[theta], BANDIT[0.0]) for theta in (0.1, 0.5)),
)

SAME, CUBE, LOGIT = 'as they are', 'cubed', 'as logits'
TRANSFORMS = {
    SAME: lambda s: s,
    CUBE: lambda s: s**3,
    LOGIT: lambda s: np.log(s.clip(1e-5, 1 - 1e-5) / (1 - s.clip(1e-5, 1 - 1e-5))),
}
TRANSFORMED = {
    f'{name}, {label}': (BY_NAME[name], TRANSFORMS[label])
    for name in ('WBF', 'PRAE')
    for label in TRANSFORMS
    if label != LOGIT or name == 'PRAE'  # negative weights make no box
}
WEAK = {f'{name}, {count} weak boxes': (BY_NAME[name], count) for name in ('WBF', 'PRAE') for count in (0, 100, 300)}
MOST = 0.2  # mAP that weak boxes may change


@functools.cache
def folds_of(data: Path, quick: bool) -> list[Fold]:
    """Both halves of the images."""
    boxes = load(data)
    return make_folds(*(pick(*boxes, np.arange(100)) if quick else boxes))


def search(arm: str, seed: int, context: Context) -> dict:
    """Settings that are found on a half of the images, without curves and with them."""
    label, half = SEARCHES[arm]
    fold = folds_of(context.data, context.quick)[half]
    plain, ours, _ = tune({name: fold.fit_tables[name] for name in SETS[label]}, fold.fit_gt)
    refined = any(detector.curve.kind != 'identity' for detector in ours.detectors)
    return dict(plain=asdict(plain.fusion), ours=asdict(ours.fusion), refined=refined)


def searched(arm: str, context: Context) -> tuple[Calibration, Calibration]:
    """What `search` found, or finds now, with the curves of that half."""
    label, half = SEARCHES[arm]
    found = run_job(Job('searches', arm, 0), Task(search, (arm,)), context)
    fold = folds_of(context.data, context.quick)[half]
    calib = fit({name: fold.fit_tables[name] for name in SETS[label]}, fold.fit_gt)
    raw = calib.without_curves()
    ours = calib if found['refined'] else raw
    return replace(raw, fusion=FuseConfig(**found['plain'])), replace(ours, fusion=FuseConfig(**found['ours']))


def compare(label: str, seed: int, context: Context) -> dict:
    """All methods on a set of detectors."""
    folds = folds_of(context.data, context.quick)
    tuned = [searched(arm, context) for arm, (name, _) in SEARCHES.items() if name == label]
    resamples = 5 if context.quick else RESAMPLES
    return dict(scores=compare_set(folds, SETS[label], ALL, resamples=resamples, searched=tuned or None))


class MeanAP:
    """AP of several fits, tested on the same images, for any weights of these: their mean."""

    def __init__(self, fits: list[ResampledAP]) -> None:
        self.fits = fits

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """As :class:`ResampledAP`."""
        return np.mean([fit(weights) for fit in self.fits], axis=0)


def few_images(arm: str, seed: int, context: Context) -> dict:
    """Find mAP of each method for each fold and draw of fit images, and intervals of differences of their means.

    All fits of a half are tested on the same images, so intervals are bootstrapped over images, not over fits.
    """
    label, count = FEW[arm]
    folds = folds_of(context.data, context.quick)
    found: dict[str, list[float]] = {method.name: [] for method in FEW_METHODS}
    means: dict[str, list[MeanAP]] = {method.name: [] for method in FEW_METHODS}
    for fold in folds:
        drawn = [calibrations(FEW_METHODS, smaller(fold, count, draw), SETS[label]) for draw in range(DRAWS)]
        for name in found:
            fits = [ResampledAP(run_method(fold, calib[name]), fold.test_gt) for calib in drawn]
            found[name] += [fit.mean_ap() for fit in fits]
            means[name].append(MeanAP(fits))
    sizes = [len(fold.test_gt.dataset) for fold in folds]
    resampled = bootstrap(means, sizes, 5 if context.quick else RESAMPLES, seed)
    intervals = {
        f'{ours} minus {theirs}': np.quantile((resampled[ours] - resampled[theirs])[:, 0], (0.025, 0.975)).tolist()
        for ours, theirs in FEW_PAIRS
    }
    return dict(found, intervals=intervals)


def changed_mean_ap(method: Method, context: Context, change) -> dict:
    """Find mAP on set A with changed boxes, mean over folds; ``change(gt, name, table)``."""
    scores = []
    for fold in folds_of(context.data, context.quick):
        pairs = (fold.fit_gt, fold.fit_tables), (fold.test_gt, fold.test_tables)
        parts = [{name: change(gt, name, tables[name]) for name in SETS['A']} for gt, tables in pairs]
        own = Fold(fold.fit_gt, fold.test_gt, *parts)
        calib = calibrations([method], own, SETS['A'])[method.name]
        scores.append(ResampledAP(run_method(own, calib), fold.test_gt).mean_ap())
    return dict(mAP=mean(scores))


def transform(arm: str, seed: int, context: Context) -> dict:
    """Find mAP where the scores of the first detector of set A are changed."""
    method, function = TRANSFORMED[arm]
    first = SETS['A'][0]
    return changed_mean_ap(
        method, context, lambda gt, name, table: table.with_scores(function(table.score)) if name == first else table
    )


def weak_boxes(arm: str, seed: int, context: Context) -> dict:
    """Find mAP where both detectors of set A have many more boxes with low scores."""
    method, count = WEAK[arm]
    return changed_mean_ap(
        method, context, lambda gt, name, table: with_weak_boxes(gt, table, count, (seed, DETECTORS.index(name)))
    )


def over_sets(found: Found, ours: str, *metrics: str) -> dict[str, list]:
    """Differences of a method to its plain fusion in each set, and both methods' mAP."""
    scores = {label: found.first('sets', label)['scores'] for label in SETS}
    pair = (BY_NAME[ours].baseline, ours)
    judged = []
    for metric in metrics:
        for label, cells in scores.items():
            value, *ends = cells[ours]['difference'][metric]
            what = f'{ours} minus {pair[0]}', f'{metric}, set {label}'
            judged.append(Comparison(*what, {0: value}, above=0, interval=tuple(ends), unit='images'))
    shown = [
        Row(name, f'mAP, set {label}', {0: cells[name]['mAP']}) for label, cells in scores.items() for name in pair
    ]
    return dict(judged=judged, shown=shown)


def fits(found: Found, arm: str, name: str) -> dict[int, float]:
    """MAP of a method, by fold and draw of fit images."""
    return dict(enumerate(found.first('few', arm)[name]))


def few_claims(found: Found) -> list[Claim]:
    """Few fit images: PRAE, and the bandit term; the better one of two is chosen by the same fits, which favors it."""
    judged, tuned, bandit, shown = [], [], [], []
    for arm, (_, count) in FEW.items():
        values = {method.name: fits(found, arm, method.name) for method in FEW_METHODS}
        shown += [Row(f'{arm}, {name}', 'mAP', value) for name, value in values.items()]
        best = max((BANDIT[0.1], BANDIT[0.5]), key=lambda name, values=values: mean(values[name].values()))
        pairs = [(judged, 'PRAE', 'WBF'), (tuned, 'PRAE tuned', 'WBF tuned'), (bandit, best, BANDIT[0.0])]
        for to, ours, theirs in pairs if count < 200 else ():
            name, value = f'{ours} minus {theirs}', mean(values[ours].values()) - mean(values[theirs].values())
            ends = tuple(found.first('few', arm)['intervals'][name])
            to.append(Comparison(name, f'mAP, {arm}', {0: value}, above=0, interval=ends, unit='images'))
    text = 'difference in mAP above 0 at 25 and 50 fit images, about 60 and 120 objects'
    bandit_text = 'theta .1 or .5 above theta 0 at 25 and 50 images'
    return [
        Claim('PRAE is above WBF where it is fitted on few images', 'ours', text, judged, shown),
        Claim('Tuned on few images, PRAE is above tuned WBF', 'ours', text, tuned, shown),
        Claim('The bandit term helps where fit images are few', 'abstract', bandit_text, bandit, shown),
    ]


def changes(found: Found, task: str, first: str, others: dict[str, str], most: float) -> list[Comparison]:
    """How much mAP of PRAE differs from that of its first arm; ``others``: label to arm.

    Where nothing is drawn there is one seed, and the change is exact.
    """
    judged = []
    for label, arm in others.items():
        change = {seed: abs(value) for seed, value in found.difference(task, arm, first, 'mAP').items()}
        exact = task == 'transforms'
        judged.append(Comparison(f'PRAE, {label}: change', 'mAP', change, below=most, exact=exact))
    return judged


def claims(found: Found) -> list[Claim]:
    """What follows."""
    expected = 'difference in mAP above 0 in all five sets'
    both = 'difference above 0 in all five sets, mAP and AP50'
    scales = {f'scores {label}': f'PRAE, {label}' for label in (CUBE, LOGIT)}
    weak = {f'{count} weak boxes an image': f'PRAE, {count} weak boxes' for count in (100, 300)}
    return [
        Claim('PRAE has higher mAP than WBF in every set', 'ours', expected, **over_sets(found, 'PRAE', 'mAP')),
        Claim('PRAE is nowhere worse than WBF', 'ours', both, **over_sets(found, 'PRAE', 'mAP', 'AP50')),
        Claim(
            'Tuned, PRAE has higher mAP than WBF tuned on the same images by the same search',
            'ours',
            expected,
            **over_sets(found, 'PRAE tuned', 'mAP'),
        ),
        Claim(
            'The released algorithm beats WBF at IoU .7',
            'authors’ README: 46.7, 45.2',
            expected,
            **over_sets(found, 'official', 'mAP'),
        ),
        Claim('The released curves help NMS', 'abstract', expected, **over_sets(found, 'official, NMS', 'mAP')),
        Claim('PRAE’s curves help NMS', 'abstract', expected, **over_sets(found, 'PRAE, NMS', 'mAP')),
        Claim(
            'PRAE does not change when the scores of a detector are cubed or turned into logits',
            'ours',
            'equal mAP',
            changes(found, 'transforms', f'PRAE, {SAME}', scales, 0.005),
            found.rows('transforms', 'mAP', 'mAP'),
        ),
        Claim(
            'Weak boxes, however many, do not change PRAE',
            'ours',
            f'mAP of set A within {MOST} with 100 and 300 boxes below score .004 more in each image and detector',
            changes(found, 'weak', 'PRAE, 0 weak boxes', weak, MOST),
            found.rows('weak', 'mAP', 'mAP'),
        ),
        calibration_claim(found),
        *few_claims(found),
    ]


def pictures(found: Found, context: Context, folder: Path) -> None:
    """All cells, reliability of each detector on held-out images, and precision-recall of set A."""
    results = {label: found.first('sets', label)['scores'] for label in SETS}
    record = dict(table=markdown(SETS, results, ALL), sets=SETS, resamples=RESAMPLES, results=results)
    record.update(origin(found.seconds(), *PACKAGES))
    write_text(folder / 'compare.json', json.dumps(record, indent=1) + '\n')
    fold = folds_of(context.data, context.quick)[0]
    plot_reliability(hold_out(fold.fit_tables, fold.fit_gt, fit_config(target='hit')), folder / 'reliability.png')
    names = ('NMS', 'WBF', 'PRAE')
    curves = {name: fold.test_tables[name] for name in SETS['A']}
    own = calibrations([BY_NAME[name] for name in names], fold, SETS['A'])
    curves.update({name: run_method(fold, calib) for name, calib in own.items()})
    plot_precision_recall(curves, fold.test_gt, folder / 'precision_recall.png')


EXPERIMENT = Experiment(
    tasks=dict(
        searches=Task(search, tuple(SEARCHES), minutes=0.5),
        sets=Task(compare, tuple(SETS), minutes=1.0),
        few=Task(few_images, tuple(FEW), minutes=4.0),
        transforms=Task(transform, tuple(TRANSFORMED), minutes=0.3),
        weak=Task(weak_boxes, tuple(WEAK), (0, 1, 2), minutes=0.2),
        calibration=Task(calibration, ('E',), minutes=0.4),
    ),
    claims=claims,
    finish=pictures,
    data=DATA,
    packages=PACKAGES,
)
