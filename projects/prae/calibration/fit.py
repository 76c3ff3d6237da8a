"""Fit a curve for each detector on images that all of them have seen: the bandit stage of arXiv 2105.03139."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy import ndarray

from ..boxes.tables import Detections, GroundTruth, clean
from .curves import fit_curve
from .detectors import Calibration, DetectorCurves, check_names
from .file import fingerprints
from .matching import COCO_THRESHOLDS, best_iou, hits_any, match_greedy
from .options import FitConfig

LOGGER = logging.getLogger('mmplugins.prae')


def fit(
    dets: Mapping[str, Detections],
    gts: GroundTruth,
    cfg: FitConfig | None = None,
    known: Mapping[str, Sequence[str]] | None = None,
    preset: str = 'robust',
) -> Calibration:
    """Fit the curves of all detectors.

    Args:
        dets: Name of each detector to its boxes on the images of ``gts``.
        gts: Ground truth. The images must not be those that the ensemble is tested on.
        cfg: Options; None for the preset ``robust``.
        known: Name of a detector to the names of the classes it was trained on. Where absent: the classes that it has
            boxes of.
        preset: What ``cfg`` is called in the file.

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
        names = (known or {}).get(name)
        detectors.append(_fit_detector(name, table, gts, cfg, names))
    return Calibration(tuple(detectors), gts.dataset.classes, cfg, preset, frozenset(fingerprints(gts.dataset)))


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


def _fit_detector(
    name: str, table: Detections, gts: GroundTruth, cfg: FitConfig, known: Sequence[str] | None
) -> DetectorCurves:
    value, counts = targets(table, gts, cfg)
    curve = fit_curve(table.score[counts], value[counts], len(table), cfg)
    classes = gts.dataset.classes
    by_category = {}
    if cfg.per_category:
        for index in np.unique(table.category):
            rows = counts & (table.category == index)
            if rows.sum() >= cfg.category_min:
                scores = table.score[rows]
                by_category[classes[index]] = fit_curve(scores, value[rows], len(scores), cfg, prior=curve)
    if known is None:
        known = [classes[index] for index in np.unique(table.category)]
    unknown = sorted(set(known) - set(classes))
    if unknown:
        LOGGER.warning('%s knows classes that the ground truth has not: %s', name, unknown)
    return DetectorCurves(name, curve, by_category, tuple(c for c in classes if c in set(known)), len(table))
