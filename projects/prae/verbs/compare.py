"""The verb ``compare``: plain fusion and PRAE on sets of detectors, fitted and tested on two halves of the images.

Each method runs on both halves; a cell is the mean of the two. Intervals are of the difference to the plain fusion with
the same head and threshold, 95 %, paired: both are scored on the same resampled images. They hold for these halves and
detectors and say nothing about other data.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...utils.atomic import write_text
from ..boxes.average_precision import coco_scores
from ..boxes.tables import Detections, GroundTruth, subset, subset_detections
from ..calibration.detectors import Calibration
from ..calibration.fit import fit
from ..calibration.options import fit_config
from ..files.inputs import read_annotations, read_detections
from ..fusion.fuse import fuse
from ..fusion.options import fuse_config
from .arguments import parse_named
from .bootstrap import ResampledAP, bootstrap

LOGGER = logging.getLogger('mmplugins.prae')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``compare``."""
    parser.add_argument('--ann', help='COCO annotation file, or folder of VOC XML')
    parser.add_argument('--det', action='append', metavar='NAME=FILE', help='once for each detector')
    text = 'instead of --ann and --det: a folder with gt.json[.gz] and <name>.bbox.json[.gz]'
    parser.add_argument('--folder', type=Path, help=text)
    text = 'detectors of a column, once for each; default: one column of all'
    parser.add_argument('--set', action='append', metavar='LABEL=NAME,NAME', help=text)
    parser.add_argument('--seed', type=int, default=0, help='of the halves and of the bootstrap')
    parser.add_argument('--resamples', type=int, default=200, help='of the bootstrap (default 200); 0: no intervals')
    parser.add_argument('-o', '--out', help='JSON file with all numbers')


def run(args: argparse.Namespace) -> None:
    """Fit on one half of the images and test on the other, both ways; print mAP / AP50 of plain fusion and PRAE."""
    annotation, files = _files(args)
    sets = _sets(args.set, files)
    gt = read_annotations(annotation)
    if len(gt.dataset) < 4:
        raise ValueError(f'{annotation} has {len(gt.dataset)} images; at least 4 are needed for two halves')
    used = sorted({name for names in sets.values() for name in names})
    tables = {name: read_detections(files[name], gt.dataset, name) for name in used}
    folds = make_folds(gt, tables, args.seed)
    results = {
        label: compare_set(folds, names, resamples=args.resamples, seed=args.seed) for label, names in sets.items()
    }
    if args.out:
        write_text(args.out, json.dumps(dict(sets=sets, resamples=args.resamples, results=results), indent=1) + '\n')
    print(markdown(sets, results))


def _files(args: argparse.Namespace) -> tuple[str | Path, dict]:
    """Annotation file, and name to file of each detector."""
    if args.folder is None:
        if not args.ann or not args.det:
            raise ValueError('give --ann and --det, or --folder')
        return args.ann, parse_named(args.det)
    if args.ann or args.det:
        raise ValueError('--folder goes without --ann and --det')
    if not args.folder.is_dir():
        raise FileNotFoundError(f'folder {args.folder} does not exist')
    truth = [path for path in (args.folder / 'gt.json', args.folder / 'gt.json.gz') if path.is_file()]
    files = {path.name.partition('.bbox.json')[0]: path for path in sorted(args.folder.glob('*.bbox.json*'))}
    if not truth or not files:
        raise ValueError(f'{args.folder} needs gt.json or gt.json.gz, and <name>.bbox.json or .json.gz')
    return truth[0], files


def _sets(pairs: list[str] | None, files: dict) -> dict[str, list[str]]:
    """Label of each column to its detectors."""
    if not pairs:
        return {'all': list(files)}
    sets = {label: names.split(',') for label, names in parse_named(pairs).items()}
    for label, names in sets.items():
        unknown = sorted(set(names) - set(files))
        if unknown or len(set(names)) < len(names):
            raise ValueError(f'set {label}: {unknown or "a detector twice"}; there are {sorted(files)}')
    return sets


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Args:
        name: As printed.
        preset: Of the curves; None for raw scores.
        fusion: Options of the fusion that differ from the preset's.
        baseline: The method that the interval is against; None for none.
        fit: Options of the fit that differ from the preset's.
    """

    name: str
    preset: str | None
    fusion: Mapping = field(default_factory=dict)
    baseline: str | None = None
    fit: Mapping = field(default_factory=dict)


METHODS = (
    Method('NMS .5', None, dict(head='nms', iou_thr=0.5)),
    Method('Soft-NMS .3', None, dict(head='soft_nms', sigma=0.3)),
    Method('NMW .55', None, dict(head='nmw')),
    Method('WBF .55', None, dict(head='wbf')),
    Method('WBF .7', None, dict(head='wbf', iou_thr=0.7)),
    Method('official, NMS .5', 'official', dict(head='nms', iou_thr=0.5), 'NMS .5'),
    Method('official, WBF .7', 'official', {}, 'WBF .7'),
    Method('official, WBF .55', 'official', dict(iou_thr=0.55), 'WBF .55'),
    Method('robust, NMS .5', 'robust', dict(head='nms', iou_thr=0.5), 'NMS .5'),
    Method('robust, Soft-NMS .3', 'robust', dict(head='soft_nms', sigma=0.3)),
    Method('robust, NMW .55', 'robust', dict(head='nmw')),
    Method('robust, noisy-or .55', 'robust', dict(head='noisy_or')),
    Method('robust, WBF .55', 'robust', dict(head='wbf'), 'WBF .55'),
)


@dataclass(frozen=True)
class Fold:
    """Fit and test images with their ground truth, and the boxes of some detectors on both."""

    fit_gt: GroundTruth
    test_gt: GroundTruth
    fit_tables: dict[str, Detections]
    test_tables: dict[str, Detections]


def halves(num_images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of the images, each in rising order."""
    # The legacy generator: its permutations are fixed for good, those of default_rng may change between releases.
    order = np.random.RandomState(seed).permutation(num_images)
    return np.sort(order[: num_images // 2]), np.sort(order[num_images // 2 :])


def make_folds(gt: GroundTruth, tables: Mapping[str, Detections], seed: int = 0) -> list[Fold]:
    """Both ways round of two halves."""
    num = len(gt.dataset)
    parts = halves(num, seed)
    grounds = [subset(gt, part) for part in parts]
    boxes = [{name: subset_detections(table, part, num) for name, table in tables.items()} for part in parts]
    return [Fold(grounds[a], grounds[b], boxes[a], boxes[b]) for a, b in ((0, 1), (1, 0))]


def run_method(method: Method, fold: Fold, calib: Calibration) -> Detections:
    """Fuse the test boxes of a fold.

    Args:
        method: What to do.
        fold: Test images.
        calib: Curves of the fold's detectors; those of no detector else.
    """
    cfg = fuse_config(method.preset or 'robust', **method.fusion)
    return fuse([fold.test_tables[name] for name in calib.names], calib, cfg, fold.test_gt.dataset.sizes)


def curves_of(method: Method, fold: Fold, names: Sequence[str]) -> Calibration:
    """The curves that a method needs, fitted on the fit images of the fold."""
    if method.preset is None:
        return Calibration.identity(names, fold.fit_gt.dataset.classes)
    tables = {name: fold.fit_tables[name] for name in names}
    return fit(tables, fold.fit_gt, fit_config(method.preset, **method.fit), preset=method.preset)


def compare_set(
    folds: Sequence[Fold],
    names: Sequence[str],
    methods: Sequence[Method] = METHODS,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, dict]:
    """Score all methods on one set of detectors.

    Args:
        folds: See :func:`make_folds`.
        names: Detectors of the set.
        methods: What to compare.
        resamples: Of the bootstrap; 0 for no intervals.
        seed: Of the bootstrap.

    Returns:
        Name of each method to ``mAP`` and ``AP50``, percent, and ``folds``; with a baseline also ``difference``, for
        mAP and AP50 the mean and the ends of the interval.
    """
    scores: dict[str, dict] = {
        name: _summary([coco_scores(f.test_tables[name], f.test_gt) for f in folds]) for name in names
    }
    wanted = {m.baseline for m in methods if m.baseline} | {m.name for m in methods if m.baseline}
    arms: dict[str, list[ResampledAP]] = {}
    for method in methods:
        outputs = [run_method(method, fold, curves_of(method, fold, names)) for fold in folds]
        scores[method.name] = _summary(
            [coco_scores(out, fold.test_gt) for out, fold in zip(outputs, folds, strict=True)]
        )
        if resamples and method.name in wanted:
            arms[method.name] = [ResampledAP(out, f.test_gt) for out, f in zip(outputs, folds, strict=True)]
        LOGGER.info('%s: mAP %.1f, AP50 %.1f', method.name, scores[method.name]['mAP'], scores[method.name]['AP50'])
    if arms:
        drawn = bootstrap(arms, [len(fold.test_gt.dataset) for fold in folds], resamples, seed)
        for method in methods:
            if method.baseline:
                spread = drawn[method.name] - drawn[method.baseline]
                low, high = np.percentile(spread, [2.5, 97.5], axis=0)
                scores[method.name]['difference'] = {
                    metric: [round(scores[method.name][metric] - scores[method.baseline][metric], 3), *ends]
                    for metric, ends in (
                        (metric, (round(low[place], 3), round(high[place], 3)))
                        for place, metric in enumerate(('mAP', 'AP50'))
                    )
                }
    return scores


def _summary(folds: Sequence[dict[str, float]]) -> dict:
    """Mean over folds, and each fold."""
    mean = {metric: round(float(np.mean([fold[metric] for fold in folds])), 3) for metric in ('mAP', 'AP50')}
    return {**mean, 'folds': [[round(fold['mAP'], 3), round(fold['AP50'], 3)] for fold in folds]}


def best_single(scores: Mapping[str, dict], names: Sequence[str]) -> str:
    """Name of the detector with the highest mAP."""
    return max(names, key=lambda name: scores[name]['mAP'])


def markdown(
    sets: Mapping[str, Sequence[str]], results: Mapping[str, dict], methods: Sequence[Method] = METHODS
) -> str:
    """One table of all sets: mAP / AP50 of each method, then the differences with their intervals."""
    lines = ['| method | ' + ' | '.join(sets) + ' |', '|' + ' --- |' * (len(sets) + 1)]
    single = [results[label][best_single(results[label], names)] for label, names in sets.items()]
    lines.append(_row('best single', [f'{s["mAP"]:.1f} / {s["AP50"]:.1f}' for s in single]))
    for method in methods:
        cells = [
            f'{results[label][method.name]["mAP"]:.1f} / {results[label][method.name]["AP50"]:.1f}' for label in sets
        ]
        lines.append(_row(method.name, cells))
    for method in methods:
        for metric in ('mAP', 'AP50') if method.baseline else ():
            found = [results[label][method.name].get('difference') for label in sets]
            if all(found):
                cells = ['{:+.2f} [{:+.2f}, {:+.2f}]'.format(*difference[metric]) for difference in found]
                lines.append(_row(f'{metric}: {method.name} − {method.baseline}', cells))
    return '\n'.join(lines)


def _row(name: str, cells: Sequence[str]) -> str:
    return f'| {name} | ' + ' | '.join(cells) + ' |'
