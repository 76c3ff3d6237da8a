"""Two-fold comparison of plain fusion and PRAE on sets of detectors: fit on one half of the images, test on the other.

Each method runs on both halves; a cell is the mean of the two. Intervals are of the difference to the plain fusion with
the same head and threshold, 95 %, paired: both are scored on the same resampled images. They hold for these halves and
detectors and say nothing about other data.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .calibration import Calibration
from .evaluate import ResampledAP, bootstrap, coco_scores
from .fit import fit
from .fusion import fuse
from .options import fit_config, fuse_config
from .tables import Detections, GroundTruth, subset, subset_detections

LOGGER = logging.getLogger('mmplugins.prae')


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
