"""The fitted curves of all detectors: what the bandit stage of arXiv 2105.03139 leaves for the test images."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy import ndarray

from ..fusion.options import FuseConfig
from .curves import Curve, identity
from .options import FitConfig


@dataclass(frozen=True)
class DetectorCurves:
    """One detector.

    Args:
        name: Unique in a calibration.
        curve: For all categories.
        by_category: Class name to a curve of its own.
        known: Names of the classes that it had boxes of, or was said to know.
        num_boxes: Boxes that it was fitted on.
        misplaced: Mean of ``(1 - IoU)^2`` of its right boxes, weighted by refined score; 0 if unknown.
    """

    name: str
    curve: Curve
    by_category: dict[str, Curve] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    num_boxes: int = 0
    misplaced: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """Curves, and what they were made from.

    Args:
        detectors: In the order in which the tables of detections come.
        classes: Names that the columns ``category`` of tables index into.
        cfg: Options of the fit.
        fit_images: A fingerprint of each fit image, see :func:`calibration.file.fingerprints`.
        fusion: How the refined boxes are to be fused, unless somebody says otherwise.
        after: Curve of the scores that come out of this fusion; None: they stay as they are.

    Raises:
        ValueError: If two detectors have one name.
    """

    detectors: tuple[DetectorCurves, ...]
    classes: tuple[str, ...]
    cfg: FitConfig = field(default_factory=FitConfig)
    fit_images: frozenset[str] = frozenset()
    fusion: FuseConfig = field(default_factory=FuseConfig)
    after: Curve | None = None

    def __post_init__(self) -> None:
        check_names(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the detectors."""
        return tuple(detector.name for detector in self.detectors)

    def refine(self, det_idx: int, scores: ndarray, labels: ndarray) -> ndarray:
        """Replace confidences by statistical probabilities.

        Args:
            det_idx: Which detector.
            scores: ``(M,)``.
            labels: ``(M,)``, index of the class.

        Returns:
            ``(M,)``; NaN for boxes that the preset ``official`` drops (score < 0.04).

        Raises:
            ValueError: If a score is NaN or infinite, or a label is not an index of a class.
        """
        detector = self.detectors[det_idx]
        scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
        if not np.isfinite(scores).all():
            raise ValueError(f'{int((~np.isfinite(scores)).sum())} scores of {detector.name} are NaN or infinite')
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(f'labels of {detector.name} must be in [0, {len(self.classes)}), as there are classes')
        refined = detector.curve(scores)
        for name, curve in detector.by_category.items():
            rows = np.flatnonzero(labels == self.classes.index(name))
            refined[rows] = curve(scores[rows])
        return refined

    def knows(self) -> ndarray:
        """Which detector knows which class, ``(D, C)`` bool."""
        table = np.zeros((len(self.detectors), len(self.classes)), dtype=bool)
        for row, detector in zip(table, self.detectors, strict=True):
            row[[self.classes.index(name) for name in detector.known]] = True
        return table

    def select(self, names: Sequence[str]) -> Calibration:
        """Return the curves of some detectors, in the given order; of fewer than all without ``after``, with a warning.

        Raises:
            ValueError: If one is not in the calibration.
        """
        check_names(names)
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise ValueError(f'the calibration has no detector {unknown}; it was fitted for {list(self.names)}')
        fewer = len(names) < len(self.names)
        if fewer and self.after is not None:
            text = f'the curve of the fused scores was fitted on all of {list(self.names)}, so it is left out: '
            warnings.warn(text + 'scores are not calibrated', stacklevel=2)
        places = [self.names.index(name) for name in names]
        weights = {
            key: None if value is None else tuple(value[place] for place in places)
            for key, value in (('weights', self.fusion.weights), ('corner_weights', self.fusion.corner_weights))
        }
        return replace(
            self,
            detectors=tuple(self.detectors[place] for place in places),
            fusion=replace(self.fusion, **weights),
            # The curve was fitted on the fusion of all detectors and does not hold for a subset.
            after=None if fewer else self.after,
        )

    def for_classes(self, classes: Sequence[str]) -> Calibration:
        """Return the same curves for tables whose ``category`` indexes other classes, matched by name.

        A class that the calibration does not have gets the detector's common curve, with a warning.
        """
        new = sorted(set(classes) - set(self.classes))
        if new:
            text = 'classes without a curve of their own, the detectors’ common curves are used: '
            warnings.warn(text + ', '.join(new), stacklevel=2)
        detectors = tuple(
            replace(
                detector,
                by_category={name: curve for name, curve in detector.by_category.items() if name in classes},
                # Nothing is known about a new class, so every detector may know it.
                known=tuple(name for name in classes if name in detector.known or name in new),
            )
            for detector in self.detectors
        )
        return replace(self, detectors=detectors, classes=tuple(classes))

    def knowing(self, known: Sequence[Collection[str]]) -> Calibration:
        """Return the same curves of detectors that know no other classes than these, given for each by name."""
        detectors = (
            replace(detector, known=tuple(name for name in detector.known if name in names))
            for detector, names in zip(self.detectors, known, strict=True)
        )
        return replace(self, detectors=tuple(detectors))

    def without_curves(self) -> Calibration:
        """Return the same detectors with scores as they are: fusion of raw scores, or of scores refined already."""
        detectors = (replace(detector, curve=identity(), by_category={}) for detector in self.detectors)
        return replace(self, detectors=tuple(detectors), after=None)

    @staticmethod
    def identity(names: Sequence[str], classes: Sequence[str]) -> Calibration:
        """A calibration that changes nothing: fusion of raw scores, as plain NMS and WBF do it."""
        detectors = tuple(DetectorCurves(name, identity(), known=tuple(classes)) for name in names)
        return Calibration(detectors, tuple(classes))


def check_names(names: Sequence[str]) -> None:
    """Check that detectors have different names.

    Raises:
        ValueError: If they have not, or there are none, or more than 63.
    """
    if not names:
        raise ValueError('no detector')
    if len(names) > 63:  # the fusion keeps a bit for each in an int64
        raise ValueError(f'{len(names)} detectors; at most 63 can be fused')
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f'several detectors are called {twice}; give each a name of its own')
