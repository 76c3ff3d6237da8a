"""The verb ``compare``: plain fusion and PRAE on sets of detectors, fitted and tested on two halves of the images.

Each method runs on both halves; a cell is the mean of the two. What is tuned is tuned on the half that it is not tested
on. Intervals are of the difference between PRAE and weighted boxes fusion, both tuned or both as they come, 95 %,
paired: both are scored on the same resampled images. They hold for these halves and detectors and say nothing about
other data.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...utils.atomic import write_text
from ..boxes.tables import Detections
from ..calibration.detectors import Calibration
from ..calibration.fit import fit
from ..calibration.options import fit_config
from ..fusion.fuse import fuse
from ..fusion.options import fuse_config
from ..tuning.bootstrap import ResampledAP, bootstrap
from ..tuning.folds import Fold, make_folds
from ..tuning.search import tune
from .arguments import add_inputs, parse_named, read_named

LOGGER = logging.getLogger('mmplugins.prae')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``compare``."""
    add_inputs(parser, 'all images', required=False)
    text = 'instead of --ann and --det: a folder with gt.json[.gz] and <name>.bbox.json[.gz]'
    parser.add_argument('--folder', type=Path, help=text)
    text = 'detectors of a column, once for each; default: one column of all'
    parser.add_argument('--set', action='append', metavar='LABEL=NAME,NAME', help=text)
    parser.add_argument('--seed', type=int, default=0, help='of the halves and of the bootstrap')
    parser.add_argument('--resamples', type=int, default=200, help='of the bootstrap (default 200); 0: no intervals')
    parser.add_argument('-o', '--out', help='JSON file with all numbers')


def run(args: argparse.Namespace) -> None:
    """Fit and tune on one half of the images and test on the other, both ways; print mAP / AP50 of all methods."""
    if args.folder is not None:
        args.ann, args.det = _files(args)
    if not args.ann or not args.det:
        raise ValueError('give --ann and --det, or --folder')
    sets = _sets(args.set, list(parse_named(args.det)))
    gt, tables = read_named(args)
    if len(gt.dataset) < 4:
        raise ValueError(f'{args.ann} has {len(gt.dataset)} images; at least 4 are needed for two halves')
    folds = make_folds(gt, tables, args.seed)
    results = {
        label: compare_set(folds, names, resamples=args.resamples, seed=args.seed) for label, names in sets.items()
    }
    if args.out:
        write_text(args.out, json.dumps(dict(sets=sets, resamples=args.resamples, results=results), indent=1) + '\n')
    print(markdown(sets, results))


def _files(args: argparse.Namespace) -> tuple[Path, list[str]]:
    """``--ann`` and ``--det`` of a folder."""
    if args.ann or args.det:
        raise ValueError('--folder goes without --ann and --det')
    if not args.folder.is_dir():
        raise FileNotFoundError(f'folder {args.folder} does not exist')
    truth = [path for path in (args.folder / 'gt.json', args.folder / 'gt.json.gz') if path.is_file()]
    files = [f'{path.name.partition(".bbox.json")[0]}={path}' for path in sorted(args.folder.glob('*.bbox.json*'))]
    if not truth or not files:
        raise ValueError(f'{args.folder} needs gt.json or gt.json.gz, and <name>.bbox.json or .json.gz')
    return truth[0], files


def _sets(pairs: list[str] | None, files: list[str]) -> dict[str, list[str]]:
    """Label of each column to its detectors."""
    if not pairs:
        return {'all': files}
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
        tuned: Whether the settings are searched on the fit images; what is given above has no meaning then.
    """

    name: str
    preset: str | None
    fusion: Mapping = field(default_factory=dict)
    baseline: str | None = None
    fit: Mapping = field(default_factory=dict)
    tuned: bool = False


METHODS = (
    Method('NMS', None, dict(head='nms', iou_thr=0.5)),
    Method('Soft-NMS', None, dict(head='soft_nms', sigma=0.3)),
    Method('WBF', None),
    Method('WBF tuned', None, tuned=True),
    Method('PRAE', 'robust', {}, 'WBF'),
    Method('PRAE tuned', 'robust', {}, 'WBF tuned', tuned=True),
)


def run_method(fold: Fold, calib: Calibration) -> Detections:
    """Fuse the test boxes of a fold by the curves and settings of a calibration."""
    return fuse([fold.test_tables[name] for name in calib.names], calib, sizes=fold.test_gt.dataset.sizes)


def calibration_of(method: Method, fold: Fold, names: Sequence[str]) -> Calibration:
    """Curves and settings of a method that is not tuned, fitted on the fit images of the fold."""
    if method.preset is None:
        fusion = fuse_config('robust', **method.fusion)
        return replace(Calibration.identity(names, fold.fit_gt.dataset.classes), fusion=fusion)
    calib = fit({name: fold.fit_tables[name] for name in names}, fold.fit_gt, fit_config(method.preset, **method.fit))
    return replace(calib, fusion=replace(calib.fusion, **method.fusion))


def calibrations(
    methods: Sequence[Method], fold: Fold, names: Sequence[str], searched: Sequence[Calibration] | None = None
) -> dict[str, Calibration]:
    """Curves and settings of all methods.

    Args:
        methods: What to compare.
        fold: Fit images.
        names: Detectors.
        searched: What :func:`tune` found for fusion without curves and with them; None: it runs once for both.
    """
    found = {}
    if searched is None and any(method.tuned for method in methods):
        searched = tune({name: fold.fit_tables[name] for name in names}, fold.fit_gt)[:2]
    for method in methods:
        tuned = searched[method.preset is not None] if method.tuned else None
        found[method.name] = tuned or calibration_of(method, fold, names)
    return found


def compare_set(
    folds: Sequence[Fold],
    names: Sequence[str],
    methods: Sequence[Method] = METHODS,
    resamples: int = 200,
    seed: int = 0,
    searched: Sequence[Sequence[Calibration]] | None = None,
) -> dict[str, dict]:
    """Score all methods on one set of detectors.

    Args:
        folds: See :func:`make_folds`.
        names: Detectors of the set.
        methods: What to compare.
        resamples: Of the bootstrap; 0 for no intervals.
        seed: Of the bootstrap.
        searched: For each fold, see :func:`calibrations`.

    Returns:
        Name of each method to ``mAP`` and ``AP50``, percent, and ``folds``; with a baseline also ``difference``, for
        mAP and AP50 the mean and the ends of the interval.
    """
    scores: dict[str, dict] = {
        name: _summary([ResampledAP(f.test_tables[name], f.test_gt) for f in folds]) for name in names
    }
    wanted = {m.baseline for m in methods if m.baseline} | {m.name for m in methods if m.baseline}
    arms: dict[str, list[ResampledAP]] = {}
    found = searched or [None] * len(folds)
    settings = [calibrations(methods, fold, names, own) for fold, own in zip(folds, found, strict=True)]
    for method in methods:
        outputs = [run_method(fold, own[method.name]) for fold, own in zip(folds, settings, strict=True)]
        judged = [ResampledAP(out, fold.test_gt) for out, fold in zip(outputs, folds, strict=True)]
        scores[method.name] = _summary(judged)
        if resamples and method.name in wanted:
            arms[method.name] = judged
        LOGGER.info('%s: mAP %.1f, AP50 %.1f', method.name, scores[method.name]['mAP'], scores[method.name]['AP50'])
    drawn = bootstrap(arms, [len(fold.test_gt.dataset) for fold in folds], resamples, seed) if arms else {}
    for method in methods:
        if method.name in drawn and method.baseline:
            spread = drawn[method.name] - drawn[method.baseline]
            ends = np.percentile(spread, [2.5, 97.5], axis=0).round(3).T.tolist()
            scores[method.name]['difference'] = {
                metric: [round(scores[method.name][metric] - scores[method.baseline][metric], 3), *ends[place]]
                for place, metric in enumerate(('mAP', 'AP50'))
            }
    return scores


def _summary(folds: Sequence[ResampledAP]) -> dict:
    """Mean over folds, and each fold: mAP and AP50, percent."""
    each = [[fold.mean_ap(), fold.ap50()] for fold in folds]
    mean = dict(zip(('mAP', 'AP50'), np.mean(each, axis=0).round(3).tolist(), strict=True))
    return {**mean, 'folds': np.round(each, 3).tolist()}


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
