"""Fit a curve for each detector on images that all of them have seen: the bandit stage of arXiv 2105.03139."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy import ndarray

from ..boxes.tables import Detections, GroundTruth, clean
from ..fusion.options import fuse_config
from .curves import Curve, fit_curve
from .detectors import Calibration, DetectorCurves, check_names
from .file import fingerprints
from .matching import COCO_THRESHOLDS, best_iou, hits, hits_any, match_greedy
from .options import FitConfig

LOGGER = logging.getLogger('mmplugins.prae')


def fit(
    dets: Mapping[str, Detections],
    gts: GroundTruth,
    cfg: FitConfig | None = None,
    known: Mapping[str, Sequence[str]] | None = None,
) -> Calibration:
    """Fit the curves of all detectors.

    Args:
        dets: Name of each detector to its boxes on the images of ``gts``.
        gts: Ground truth. The images must not be those that the ensemble is tested on.
        cfg: Options; None for the preset ``robust``. The calibration fuses with the options that go with its preset.
        known: Name of a detector to the names of the classes it was trained on. Where absent: the classes that it has
            boxes of.

    Raises:
        ValueError: If there are no detectors, no images, or names are repeated; for preset ``official``, if scores are
            outside [0, 1].
    """
    cfg = cfg or FitConfig()
    check_names(list(dets))
    if not len(gts.dataset):
        raise ValueError('no image to fit on')
    if not len(gts.box):
        raise ValueError('no annotated box to fit on: every detection would count as wrong')
    detectors = []
    for name, table in dets.items():
        table, dropped = clean(table)
        if any(dropped.values()):
            LOGGER.warning('%s: left out %s', name, ', '.join(f'{n} boxes ({why})' for why, n in dropped.items() if n))
        curve, by_category = fit_detector(table, *targets(table, gts, cfg), gts, cfg)
        found = _known(name, table, gts, (known or {}).get(name))
        error = _misplaced(table, gts, curve(table.score))
        detectors.append(DetectorCurves(name, curve, by_category, found, len(table), error))
    fusion = fuse_config(cfg.preset)
    if cfg.preset == 'robust':
        fusion = replace(fusion, corner_weights=corner_weights(detectors))
    return Calibration(tuple(detectors), gts.dataset.classes, cfg, frozenset(fingerprints(gts.dataset)), fusion)


def corner_weights(detectors: Sequence[DetectorCurves], power: float = 2.0) -> tuple[float, ...] | None:
    """Weights of the detectors' corners: the more exactly one places its boxes, the more they count.

    Not in the paper. Independent errors would ask for the inverse of the squared error, ``power`` 1; but errors of
    detectors go together, and then the better one is worth more.

    Returns:
        For each detector, 1 for the best; None if it is not known of all.
    """
    error = np.array([detector.misplaced for detector in detectors])
    return tuple(((error.min() / error) ** power).tolist()) if (error > 0).all() else None


def fit_detector(
    table: Detections, value: ndarray, counts: ndarray, gts: GroundTruth, cfg: FitConfig
) -> tuple[Curve, dict[str, Curve]]:
    """Fit the curves of one detector.

    Args:
        table: Its boxes.
        value: ``(M,)``, see :func:`targets`.
        counts: ``(M,)`` bool, see :func:`targets`.
        gts: Names the classes.
        cfg: Options.

    Returns:
        The common curve; class name to a curve of its own.
    """
    curve = fit_curve(table.score[counts], value[counts], len(table), cfg)
    by_category = {}
    if cfg.per_category:
        for index in np.unique(table.category):
            rows = counts & (table.category == index)
            if rows.sum() >= cfg.category_min:
                scores = table.score[rows]
                name = gts.dataset.classes[index]
                by_category[name] = fit_curve(scores, value[rows], len(scores), cfg, prior=curve)
    return curve, by_category


def targets(table: Detections, gts: GroundTruth, cfg: FitConfig) -> tuple[ndarray, ndarray]:
    """What each box is worth, and which boxes count.

    Returns:
        ``(M,)`` in [0, 1]; ``(M,)`` bool, False for boxes of ignored objects only.
    """
    if cfg.match == 'any':
        value = best_iou(table, gts) if cfg.target == 'iou' else hits_any(table, gts, cfg.hit_iou)
        return value.astype(np.float64), np.ones(len(table), dtype=bool)
    if cfg.target == 'iou':
        regular, other = gts.select(~gts.ignore), gts.select(gts.ignore)
        value = best_iou(table, regular)
        of_ignored = best_iou(table, other)
        return value, (of_ignored < cfg.hit_iou) | (value >= of_ignored)
    thresholds = COCO_THRESHOLDS if cfg.target == 'quality' else np.array([cfg.hit_iou])
    hit, ignored = match_greedy(table, gts, thresholds)
    return hit.mean(0), hit.any(0) | ~ignored[0]


def _known(name: str, table: Detections, gts: GroundTruth, known: Sequence[str] | None) -> tuple[str, ...]:
    """Classes that a detector knows, in the order of the data set."""
    classes = gts.dataset.classes
    if known is None:
        known = [classes[index] for index in np.unique(table.category)]
    unknown = sorted(set(known) - set(classes))
    if unknown:
        LOGGER.warning('%s knows classes that the ground truth has not: %s', name, unknown)
    return tuple(c for c in classes if c in set(known))


def _misplaced(table: Detections, gts: GroundTruth, refined: ndarray) -> float:
    """See :class:`DetectorCurves`; weak boxes, which find what is hard to see, hardly move a fused box."""
    weight = np.nan_to_num(refined) * hits(table, gts)
    error = (1 - best_iou(table, gts.select(~gts.ignore))) ** 2
    return float((weight * error).sum() / weight.sum()) if weight.sum() > 0 else 0.0
