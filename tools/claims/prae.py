"""Does PRAE rank boxes better than plain fusion? Real detectors on PASCAL VOC2007 test, five sets, both halves.

``python tools/claims/prae.py`` writes ``projects/prae/results/compare.json`` (all cells), ``claims.json`` (what is
claimed, and whether it holds) and two figures. It needs the boxes of seven detectors, which are not part of this
repository: ``--data`` names a folder with ``voc2007_test/gt.json.gz`` (COCO annotations) and
``voc2007_test/<detector>.bbox.json.gz`` (COCO results).

Ignored (difficult) objects count as crowds, as pycocotools knows no other way to ignore an object. One split by seed
0; intervals are bootstrapped over images.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np

from mmplugins.prae import fit, fit_config
from mmplugins.prae.boxes.average_precision import coco_scores
from mmplugins.prae.boxes.tables import subset, subset_detections
from mmplugins.prae.files.inputs import read_annotations, read_detections
from mmplugins.prae.verbs.compare import METHODS, Fold, Method, compare_set, curves_of, make_folds, markdown, run_method
from mmplugins.prae.verbs.plots import plot_precision_recall, plot_reliability

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, origin, write_json

LOGGER = logging.getLogger('mmplugins.prae')
RESULTS = ROOT / 'projects/prae/results'
SETS = {
    'A': ('yolov2_darknet', 'two_stage'),
    'B': ('yolov2_pytorch', 'yolov3_darknet'),
    'C': ('yolov3_darknet', 'two_stage'),
    'D': ('yolov2_darknet', 'two_stage', 'yolov2_pytorch', 'yolov3_darknet'),
    'E': (
        'yolov2_darknet', 'two_stage', 'yolov2_pytorch', 'yolov3_darknet', 'tiny_yolo_darknet', 'tiny_yolo_caffe',
    ),
}  # fmt: skip
FEW = {50: 3, 200: 3, 1000: 1}  # fit images: draws
TRANSFORMS = {'cube': lambda s: s**3, 'logit': lambda s: np.log(s.clip(1e-5, 1 - 1e-5) / (1 - s.clip(1e-5, 1 - 1e-5)))}
WBF = {'head': 'wbf', 'iou_thr': 0.55}
BANDIT = (
    Method('theta 0, no shrinkage', 'robust', WBF, fit=dict(shrink=0.0)),
    Method('theta 0.1, no shrinkage', 'robust', WBF, fit=dict(shrink=0.0, theta=0.1)),
    Method('theta 0.5, no shrinkage', 'robust', WBF, fit=dict(shrink=0.0, theta=0.5)),
    Method('theta 0, shrinkage 20 (robust)', 'robust', WBF),
    Method('official, WBF .55', 'official', dict(iou_thr=0.55)),
)


def few_images(folds: list[Fold], names: tuple[str, ...], seed: int) -> dict:
    """Scores by number of fit images, mean over folds and draws, for each setting of the bandit term."""
    found: dict[str, dict] = {method.name: {} for method in BANDIT}
    for count, draws in {**FEW, 0: 1}.items():
        scores: dict[str, list] = {method.name: [] for method in BANDIT}
        for fold in folds:
            for draw in range(draws):
                part = smaller(fold, count, seed + draw)
                for method in BANDIT:
                    out = run_method(method, part, curves_of(method, part, names))
                    scores[method.name].append(coco_scores(out, fold.test_gt))
        for name, values in scores.items():
            mean = {metric: float(np.mean([value[metric] for value in values])) for metric in ('mAP', 'AP50')}
            found[name][str(count or 'all')] = {metric: round(value, 2) for metric, value in mean.items()}
    return found


def smaller(fold: Fold, count: int, seed: int) -> Fold:
    """The fold with ``count`` of its fit images; all if 0."""
    num = len(fold.fit_gt.dataset)
    if not count:
        return fold
    images = np.sort(np.random.RandomState(seed).permutation(num)[:count])
    tables = {name: subset_detections(table, images, num) for name, table in fold.fit_tables.items()}
    return Fold(subset(fold.fit_gt, images), fold.test_gt, tables, fold.test_tables)


def transformed(folds: list[Fold], names: tuple[str, ...]) -> dict:
    """Scores when the first detector's scores are cubed, or turned into logits (NMS and WBF: cubed only)."""
    found: dict[str, dict] = {}
    picked = [method for method in METHODS if method.name in ('NMS .5', 'WBF .55', 'robust, WBF .55')]
    for method in picked:
        for label, function in {'as they are': lambda s: s, **TRANSFORMS}.items():
            if label == 'logit' and method.preset is None:
                continue  # negative weights make no box
            scores = []
            for fold in folds:
                changed = {}
                for part in ('fit_tables', 'test_tables'):
                    tables = {name: getattr(fold, part)[name] for name in names}
                    tables[names[0]] = tables[names[0]].with_scores(function(tables[names[0]].score))
                    changed[part] = tables
                other = Fold(fold.fit_gt, fold.test_gt, **changed)
                scores.append(coco_scores(run_method(method, other, curves_of(method, other, names)), fold.test_gt))
            mean = {metric: round(float(np.mean([s[metric] for s in scores])), 2) for metric in ('mAP', 'AP50')}
            found.setdefault(method.name, {})[label] = mean
    return found


def claims(compared: dict, few: dict, invariance: dict, where: dict) -> list[dict]:
    """What is claimed, with source and verdict."""

    def arms(names: list[str], label: str) -> list[dict]:
        return [
            dict(name=f'{label}: {name}', metric='mAP', mean=compared[label][name]['mAP'], std=None, seeds=[0])
            for name in names
        ]

    def beats(method: str, metric: str, at: int) -> list[bool]:
        """Whether an end of the interval (1 low, 2 high) is above zero, for each set."""
        return [scores[method]['difference'][metric][at] > 0 for scores in compared.values()]

    def entry(claim: str, source: str, expected: str, holds: bool, rows: list[dict]) -> dict:
        return dict(claim=claim, source=source, expected=expected, holds=bool(holds), arms=rows, **where)

    pairs = [
        ('official, WBF .7', 'WBF .7', 'The released algorithm beats WBF at IoU .7', 'authors’ README: 46.7, 45.2'),
        ('robust, WBF .55', 'WBF .55', 'robust with the head wbf has higher mAP than WBF in every set', 'ours'),
        ('official, NMS .5', 'NMS .5', 'The released curves help NMS in every set', 'abstract'),
        ('robust, NMS .5', 'NMS .5', 'robust helps NMS in every set', 'abstract; robust is ours'),
    ]  # fmt: skip
    found = [
        entry(text, source, 'interval of the difference in mAP above 0 in all five sets', all(beats(name, 'mAP', 1)),
              [row for label in SETS for row in arms([base, name], label)])
        for name, base, text, source in pairs
    ]  # fmt: skip
    metric_pairs = [(metric, 2) for metric in ('mAP', 'AP50')]
    not_worse = all(all(beats('robust, WBF .55', metric, at)) for metric, at in metric_pairs)
    rows = [row for label in SETS for row in arms(['WBF .55', 'robust, WBF .55'], label)]
    text = 'robust with the head wbf is nowhere worse than WBF by more than its interval'
    found.append(entry(text, 'ours', 'upper end of every interval above 0, mAP and AP50', not_worse, rows))
    same = invariance['robust, WBF .55']
    spread = max(abs(value['mAP'] - same['as they are']['mAP']) for value in same.values())
    rows = [
        dict(name=f'{name}, {label}', metric='mAP', mean=value['mAP'], std=None, seeds=[0])
        for name, values in invariance.items()
        for label, value in values.items()
    ]
    text = 'robust does not change when the scores of a detector are cubed or turned into logits'
    found.append(entry(text, 'ours', 'equal mAP', spread < 0.005, rows))
    rows = [
        dict(name=f'{label}, {name}, {count} fit images', metric='mAP', mean=value['mAP'], std=None, seeds=[0])
        for label, methods in few.items()
        for name, values in methods.items()
        for count, value in values.items()
        if count in ('50', '200') and name.startswith('theta')
    ]
    better = all(
        max(methods['theta 0.1, no shrinkage'][count]['mAP'], methods['theta 0.5, no shrinkage'][count]['mAP'])
        > methods['theta 0, no shrinkage'][count]['mAP']
        for methods in few.values()
        for count in ('50', '200')
    )
    text = 'The bandit term helps where fit images are few'
    found.append(entry(text, 'abstract', 'theta .1 or .5 above theta 0 at 50 and 200 images', better, rows))
    return found


def main() -> None:
    """Compare, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--data', type=Path, default=ROOT.parent / 'shared/data/detections', help='see the top of the file'
    )
    parser.add_argument('--resamples', type=int, default=200, help='of the bootstrap (default 200)')
    parser.add_argument('--out', type=Path, default=RESULTS)
    args = parser.parse_args()
    folder = args.data / 'voc2007_test'
    if not folder.is_dir():
        raise SystemExit(f'{folder} does not exist: name the folder of the detections with --data, see --help')
    LOGGER.addHandler(logging.StreamHandler())
    LOGGER.setLevel(logging.INFO)
    start = time.time()
    gt = read_annotations(folder / 'gt.json.gz')
    names = SETS['E']
    tables = {name: read_detections(folder / f'{name}.bbox.json.gz', gt.dataset, name) for name in names}
    folds = make_folds(gt, tables)
    compared = {}
    for label, members in SETS.items():
        LOGGER.info('set %s: %s', label, ', '.join(members))
        compared[label] = compare_set(folds, members, resamples=args.resamples)
    few = {label: few_images(folds, SETS[label], seed=0) for label in ('A', 'D')}
    invariance = transformed(folds, SETS['A'])
    where = origin(time.time() - start, 'faster-coco-eval', 'pycocotools')
    if args.data != parser.get_default('data'):
        where['command'] = 'python tools/claims/prae.py --data <folder>'
    table = markdown(SETS, compared)
    data = dict(
        table=table,
        sets=SETS,
        resamples=args.resamples,
        results=compared,
        few_fit_images=few,
        transforms=invariance,
        **where,
    )
    write_json(args.out / 'compare.json', data)
    write_json(args.out / 'claims.json', claims(compared, few, invariance, where))
    draw(folds[0], args.out)
    print(table)
    print(f'written to {args.out}; {where["seconds"]} s')


def draw(fold: Fold, folder: Path) -> None:
    """Reliability of each detector on held-out images, and precision-recall of set A."""
    names = SETS['E']
    calib = fit({name: fold.fit_tables[name] for name in names}, fold.fit_gt, fit_config(target='hit'))
    plot_reliability(calib, fold.test_tables, fold.test_gt, folder / 'reliability.png')
    curves = {name: fold.test_tables[name] for name in SETS['A']}
    for method in METHODS:
        if method.name in ('NMS .5', 'WBF .55', 'robust, WBF .55'):
            curves[method.name] = run_method(method, fold, curves_of(method, fold, SETS['A']))
    plot_precision_recall(curves, fold.test_gt, folder / 'precision_recall.png')


if __name__ == '__main__':
    main()
