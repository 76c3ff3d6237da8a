"""Curves are judged on images that they were not fitted on; so is what comes after them.

Not in the paper, whose code fits and tests on the same images. The refined scores of all images are made by
cross-fitting: those of each part of the images by curves of the other parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray

from ..boxes.tables import Detections, GroundTruth, clean
from ..calibration.curves import fit_curve
from ..calibration.detectors import Calibration, DetectorCurves
from ..calibration.fit import fit_detector, targets
from ..calibration.matching import best_iou, hits
from ..calibration.options import FitConfig
from ..calibration.reliability import d_ece, ece, la_ece
from ..fusion.fuse import fuse
from .folds import parts_of

PARTS = 5


@dataclass(frozen=True)
class Held:
    """A detector's boxes with scores from curves that were fitted on other images.

    Args:
        table: The boxes with the detector's own scores.
        score: ``(M,)``, refined; NaN where the box is dropped.
        value: ``(M,)``, what each is worth, see :func:`calibration.fit.targets`.
        counts: ``(M,)`` bool, False for boxes of ignored objects only.
    """

    table: Detections
    score: ndarray
    value: ndarray
    counts: ndarray

    @property
    def refined(self) -> Detections:
        """The boxes that are not dropped, with refined scores."""
        return self.table.with_scores(self.score).select(np.isfinite(self.score))

    def errors(self, gt: GroundTruth) -> dict[str, tuple[float | None, float]]:
        """Calibration errors before and after: ``ECE`` and ``D-ECE`` of ``value``, ``LaECE``.

        Before is None where the detector's scores are no probabilities.
        """
        located = best_iou(self.table, gt.select(~gt.ignore)) * hits(self.table, gt)
        sizes = gt.dataset.sizes[self.table.image]
        use = self.counts & np.isfinite(self.score)
        measures: dict[str, Callable[[ndarray], float]] = {
            'ECE': lambda score: ece(score[use], self.value[use]),
            'D-ECE': lambda score: d_ece(score[use], self.value[use], self.table.box[use], sizes[use]),
            'LaECE': lambda score: la_ece(score[use], located[use], self.table.category[use]),
        }
        if self.table.box.shape[1] != 4:
            del measures['D-ECE']  # its cells are of upright boxes
        raw = self.table.score
        chance = not len(raw) or 0 <= raw.min() <= raw.max() <= 1
        return {name: (measure(raw) if chance else None, measure(self.score)) for name, measure in measures.items()}


def hold_out(tables: Mapping[str, Detections], gt: GroundTruth, cfg: FitConfig) -> dict[str, Held]:
    """Refine the boxes of each detector by curves of other images.

    Args:
        tables: Name of each detector to its boxes; those that are no boxes are left out, as :func:`fit` does.
        gt: Ground truth.
        cfg: Options of the fit.
    """
    num = len(gt.dataset)
    part = np.zeros(num, dtype=np.int64)
    for number, images in enumerate(parts_of(num, min(PARTS, num))):
        part[images] = number
    found = {}
    for name, table in tables.items():
        table, _ = clean(table)
        value, counts = targets(table, gt, cfg)
        score = np.empty(len(table))
        for number in range(part.max(initial=0) + 1):
            mine = part[table.image] == number
            rest = ~mine
            curves = DetectorCurves(name, *fit_detector(table.select(rest), value[rest], counts[rest], gt, cfg))
            single = Calibration((curves,), gt.dataset.classes, cfg)
            score[mine] = single.refine(0, table.score[mine], table.category[mine])
        found[name] = Held(table, score, value, counts)
    return found


def calibrate_fused(calib: Calibration, held: Mapping[str, Held], gt: GroundTruth) -> tuple[Calibration, Held | None]:
    """Add the curve of fused scores, which say how many detectors agree and are no probabilities.

    Does nothing if the fit options allow curves that are not monotone: such a curve would change the ranking.

    Args:
        calib: Curves and options of the fusion.
        held: The boxes that it is fitted on, see :func:`hold_out`.
        gt: Ground truth.

    Returns:
        The calibration; the fused boxes with scores before and after the curve, as of a detector.
    """
    if calib.cfg.levels == 'fixed' or not calib.cfg.monotone:
        return calib, None
    fused = fuse([one.refined for one in held.values()], calib.without_curves(), sizes=gt.dataset.sizes)
    cfg = replace(calib.cfg, per_category=False, theta=0.0)
    found = hold_out({'fused': fused}, gt, cfg)['fused']
    after = fit_curve(fused.score[found.counts], found.value[found.counts], len(fused), cfg)
    return replace(calib, after=after), found
