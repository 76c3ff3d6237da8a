"""Does PRAE rank boxes better than plain fusion? Real detectors on PASCAL VOC2007 test, five sets, both halves.

The boxes are those of ``data.py``. One split by seed 0; intervals are bootstrapped over images. All cells of all sets
go to ``compare.json``.
"""

import functools
import json
from pathlib import Path
from statistics import mean

import numpy as np

from experiments.frame.claims import Claim, Found, Row, minus
from experiments.frame.experiment import Experiment
from experiments.frame.origin import origin
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.prae.data import DATA, DETECTORS, load, pick, smaller
from mmplugins.prae import fit, fit_config
from mmplugins.prae.boxes.average_precision import coco_scores
from mmplugins.prae.verbs.compare import METHODS, Fold, Method, compare_set, curves_of, make_folds, markdown, run_method
from mmplugins.prae.verbs.plots import plot_precision_recall, plot_reliability
from mmplugins.utils.atomic import write_text

SETS = {
    'A': DETECTORS[:2],
    'B': DETECTORS[2:4],
    'C': ('yolov3_darknet', 'two_stage'),
    'D': DETECTORS[:4],
    'E': DETECTORS,
}
RESAMPLES = 200
PACKAGES = ('faster-coco-eval', 'pycocotools')
BY_NAME = {method.name: method for method in METHODS}
ROBUST = 'robust, WBF .55'
SHOWN = ('NMS .5', 'WBF .55', ROBUST)

COUNTS = {50: 3, 200: 3, 1000: 1, None: 1}  # fit images, None for all: draws
FEW = {f'{label}, {count or "all"} fit images': (label, count) for label in 'AD' for count in COUNTS}
WBF = {'head': 'wbf', 'iou_thr': 0.55}
PLAIN, THETAS = 'theta 0, no shrinkage', ('theta 0.1, no shrinkage', 'theta 0.5, no shrinkage')
BANDIT = (
    Method(PLAIN, 'robust', WBF, fit=dict(shrink=0.0)),
    Method(THETAS[0], 'robust', WBF, fit=dict(shrink=0.0, theta=0.1)),
    Method(THETAS[1], 'robust', WBF, fit=dict(shrink=0.0, theta=0.5)),
    Method('theta 0, shrinkage 20 (robust)', 'robust', WBF),
    Method('official, WBF .55', 'official', dict(iou_thr=0.55)),
)

SAME, CUBE, LOGIT = 'as they are', 'cubed', 'as logits'
TRANSFORMS = {
    SAME: lambda s: s,
    CUBE: lambda s: s**3,
    LOGIT: lambda s: np.log(s.clip(1e-5, 1 - 1e-5) / (1 - s.clip(1e-5, 1 - 1e-5))),
}
TRANSFORMED = {
    f'{name}, {label}': (BY_NAME[name], TRANSFORMS[label])
    for name in SHOWN
    for label in TRANSFORMS
    if label != LOGIT or name == ROBUST  # negative weights make no box
}


@functools.cache
def folds_of(data: Path, quick: bool) -> list[Fold]:
    """Both halves of the images."""
    boxes = load(data)
    return make_folds(*(pick(boxes, np.arange(100)) if quick else boxes))


def compare(label: str, seed: int, context: Context) -> dict:
    """All methods on a set of detectors."""
    folds = folds_of(context.data, context.quick)
    return dict(scores=compare_set(folds, SETS[label], resamples=5 if context.quick else RESAMPLES))


def mean_ap(method: Method, fold: Fold, names: tuple[str, ...]) -> float:
    """Score a method on the test images of a fold: mAP, percent."""
    return coco_scores(run_method(method, fold, curves_of(method, fold, names)), fold.test_gt)['mAP']


def few_images(arm: str, seed: int, context: Context) -> dict:
    """Find mAP of each fold and draw of fit images, for each setting of the bandit term."""
    label, count = FEW[arm]
    folds = folds_of(context.data, context.quick)
    parts = [smaller(fold, count, draw) for fold in folds for draw in range(COUNTS[count])]
    return {method.name: [mean_ap(method, part, SETS[label]) for part in parts] for method in BANDIT}


def transform(arm: str, seed: int, context: Context) -> dict:
    """Find mAP where the scores of the first detector of set A are changed, mean over folds."""
    method, function = TRANSFORMED[arm]
    scores = []
    for fold in folds_of(context.data, context.quick):
        parts = [{name: tables[name] for name in SETS['A']} for tables in (fold.fit_tables, fold.test_tables)]
        for tables in parts:
            first = tables[SETS['A'][0]]
            tables[SETS['A'][0]] = first.with_scores(function(first.score))
        scores.append(mean_ap(method, Fold(fold.fit_gt, fold.test_gt, *parts), SETS['A']))
    return dict(mAP=mean(scores))


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


def bandit_claim(found: Found) -> Claim:
    """The better one of two bandit terms against none; that it is chosen by the same fits favors the claim."""
    judged, shown = [], []
    for arm, (_, count) in FEW.items():
        fits = {method.name: dict(enumerate(found.first('few', arm)[method.name])) for method in BANDIT}
        shown += [Row(f'{arm}, {name}', 'mAP', values) for name, values in fits.items()]
        if count in (50, 200):
            best = max(THETAS, key=lambda name, fits=fits: mean(fits[name].values()))
            values = minus(fits[best], fits[PLAIN])
            judged.append(Comparison(f'{best} minus {PLAIN}', f'mAP, {arm}', values, above=0, unit='fits'))
    text = 'theta .1 or .5 above theta 0 at 50 and 200 images'
    return Claim('The bandit term helps where fit images are few', 'abstract', text, judged, shown)


def claims(found: Found) -> list[Claim]:
    """What follows."""
    expected = 'difference in mAP above 0 in all five sets'
    changed = {
        label: found.difference('transforms', f'{ROBUST}, {label}', f'{ROBUST}, {SAME}', 'mAP')
        for label in (CUBE, LOGIT)
    }
    return [
        Claim(
            'The released algorithm beats WBF at IoU .7',
            'authors’ README: 46.7, 45.2',
            expected,
            **over_sets(found, 'official, WBF .7', 'mAP'),
        ),
        Claim(
            'robust with the head wbf has higher mAP than WBF in every set',
            'ours',
            expected,
            **over_sets(found, ROBUST, 'mAP'),
        ),
        Claim(
            'The released curves help NMS in every set',
            'abstract',
            expected,
            **over_sets(found, 'official, NMS .5', 'mAP'),
        ),
        Claim(
            'robust helps NMS in every set',
            'abstract; robust is ours',
            expected,
            **over_sets(found, 'robust, NMS .5', 'mAP'),
        ),
        Claim(
            'robust with the head wbf is nowhere worse than WBF',
            'ours',
            'difference above 0 in all five sets, mAP and AP50',
            **over_sets(found, ROBUST, 'mAP', 'AP50'),
        ),
        Claim(
            'robust does not change when the scores of a detector are cubed or turned into logits',
            'ours',
            'equal mAP',
            [
                Comparison(f'scores {label}, change of {ROBUST}', 'mAP', {0: abs(values[0])}, below=0.005, exact=True)
                for label, values in changed.items()
            ],
            found.rows('transforms', 'mAP', 'mAP'),
        ),
        bandit_claim(found),
    ]


def pictures(found: Found, context: Context, folder: Path) -> None:
    """All cells, reliability of each detector on held-out images, and precision-recall of set A."""
    results = {label: found.first('sets', label)['scores'] for label in SETS}
    record = dict(table=markdown(SETS, results), sets=SETS, resamples=RESAMPLES, results=results)
    record.update(origin(found.seconds(), *PACKAGES))
    write_text(folder / 'compare.json', json.dumps(record, indent=1) + '\n')
    fold = folds_of(context.data, context.quick)[0]
    calib = fit(fold.fit_tables, fold.fit_gt, fit_config(target='hit'))
    plot_reliability(calib, fold.test_tables, fold.test_gt, folder / 'reliability.png')
    curves = {name: fold.test_tables[name] for name in SETS['A']}
    curves.update({name: run_method(BY_NAME[name], fold, curves_of(BY_NAME[name], fold, SETS['A'])) for name in SHOWN})
    plot_precision_recall(curves, fold.test_gt, folder / 'precision_recall.png')


EXPERIMENT = Experiment(
    tasks=dict(
        sets=Task(compare, tuple(SETS), minutes=1.3),
        few=Task(few_images, tuple(FEW), minutes=0.6),
        transforms=Task(transform, tuple(TRANSFORMED), minutes=0.1),
    ),
    claims=claims,
    pictures=pictures,
    data=DATA,
    packages=PACKAGES,
)
