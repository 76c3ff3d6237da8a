"""Settings of an ensemble, chosen on annotated images: whether to use the curves, the head, its IoU, weights.

Not in the paper, whose weights and thresholds are given without a way to them. A search climbs: it tries a few values
of one setting after the other and moves only if mAP rises by more than one standard error of the difference, over
resampled images. With few images it therefore stays where it begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..boxes.tables import Detections, GroundTruth
from ..calibration.detectors import Calibration
from ..calibration.fit import corner_weights, fit
from ..calibration.options import FitConfig
from ..fusion.fuse import fuse
from ..fusion.options import FuseConfig
from .bootstrap import ResampledAP
from .folds import pick
from .held_out import Held, hold_out

LOGGER = logging.getLogger('mmplugins.prae')
IMAGES = 1000  # settings are chosen on so many, drawn at random; curves are fitted on all
RESAMPLES = 20
IOUS = (0.5, 0.55, 0.6, 0.65, 0.7)


@dataclass(frozen=True)
class Setting:
    """What is tried.

    Args:
        curves: Whether scores are refined.
        fusion: How boxes are fused.
    """

    curves: bool
    fusion: FuseConfig

    def line(self, names: Sequence[str]) -> str:
        """The setting as one line."""
        cfg = self.fusion
        words = [f'scores {"refined" if self.curves else "raw"}', f'head {cfg.head}', f'iou_thr {cfg.iou_thr:g}']
        for name, weights in (('weights', cfg.weights), ('corner_weights', cfg.corner_weights)):
            if weights is not None:
                words.append(f'{name} ' + ' '.join(f'{n}:{w:.3g}' for n, w in zip(names, weights, strict=True)))
        return ', '.join([*words, f'skip_below {cfg.skip_below:g}'])


Move = Callable[[Setting], Iterator[Setting]]


class Judge:
    """mAP of settings on images whose refined scores come from curves of other images.

    Args:
        calib: Names, classes, and what the detectors know.
        gt: Ground truth.
        raw: Boxes of the detectors, in the order of ``calib``.
        refined: The same with refined scores.
    """

    def __init__(
        self, calib: Calibration, gt: GroundTruth, raw: Sequence[Detections], refined: Sequence[Detections]
    ) -> None:
        self.calib, self.gt, self.sizes = calib.without_curves(), gt, gt.dataset.sizes
        self.tables = {False: raw, True: refined}
        generator, num = np.random.default_rng(0), len(gt.dataset)
        draws = (np.bincount(generator.integers(0, num, num), minlength=num) for _ in range(RESAMPLES))
        self.weights = [draw.astype(np.float64) for draw in draws]

    def __call__(self, setting: Setting) -> ResampledAP:
        """Fuse, and return what scores the boxes."""
        return ResampledAP(fuse(self.tables[setting.curves], self.calib, setting.fusion, self.sizes), self.gt)

    def gain(self, ours: ResampledAP, theirs: ResampledAP) -> tuple[float, float]:
        """Difference in mAP, percent, and its standard error over resampled images."""
        spread = [ours.mean_ap(weights) - theirs.mean_ap(weights) for weights in self.weights]
        return ours.mean_ap() - theirs.mean_ap(), float(np.std(spread))


def climb(judge: Judge, start: Setting, moves: Sequence[Move]) -> Setting:
    """Try the values that each move offers, and go to the best if that is better by more than one standard error."""
    here, score = start, judge(start)
    refused = None
    for move in moves:
        if move is refused:  # from here it has been tried
            continue
        tried = [(judge(setting), setting) for setting in move(here) if setting != here]
        if not tried:
            continue
        value, best = max(tried, key=lambda pair: pair[0].mean_ap())
        gain, error = judge.gain(value, score)
        refused = move
        if gain > error:
            here, score, refused = best, value, None
            LOGGER.info('mAP %.2f (%+.2f): %s', score.mean_ap(), gain, here.line(judge.calib.names))
    return here


def _with(setting: Setting, **options) -> Setting:
    return replace(setting, fusion=replace(setting.fusion, **options))


def ious(here: Setting) -> Iterator[Setting]:
    """Other thresholds of the head."""
    for value in IOUS:
        yield _with(here, iou_thr=value)


def thresholds(here: Setting) -> Iterator[Setting]:
    """Weak boxes left out."""
    for value in (0.0, 0.005, 0.02, 0.05):
        yield _with(here, skip_below=value)


def weights(num: int) -> Move:
    """Twice or half of the weight of one detector."""

    def move(here: Setting) -> Iterator[Setting]:
        now = np.ones(num) if here.fusion.weights is None else np.array(here.fusion.weights)
        for detector in range(num if num > 1 else 0):
            for factor in (2.0, 0.5):
                changed = now.copy()
                changed[detector] *= factor
                yield _with(here, weights=tuple((changed / changed.max()).tolist()))

    return move


def corners(calib: Calibration) -> Move:
    """Other powers of how exactly each detector places its boxes, and none."""

    def move(here: Setting) -> Iterator[Setting]:
        yield _with(here, corner_weights=None)
        for power in (1.0, 4.0):
            yield _with(here, corner_weights=corner_weights(calib.detectors, power))

    return move


def heads(here: Setting) -> Iterator[Setting]:
    """Other heads."""
    for head in ('soft_nms', 'noisy_or'):
        yield _with(here, head=head)


def tune(tables: Mapping[str, Detections], gt: GroundTruth) -> tuple[Calibration, Calibration, dict[str, Held]]:
    """Tune plain weighted boxes fusion, and PRAE by the same moves and its own; PRAE is the better of both.

    Args:
        tables: Name of each detector to its boxes.
        gt: Ground truth.

    Returns:
        Raw scores with the settings of the first; curves, or raw scores if those are no worse, with the settings of the
        second; the boxes refined by curves of other images.
    """
    cfg, names = FitConfig(), list(tables)
    calib, held = fit(tables, gt, cfg), hold_out(tables, gt, cfg)
    images = np.sort(np.random.RandomState(0).permutation(len(gt.dataset))[:IMAGES])
    part, raw = pick(gt, tables, images)
    _, refined = pick(gt, {name: one.refined for name, one in held.items()}, images)
    judge = Judge(calib, part, *([boxes[name] for name in names] for boxes in (raw, refined)))
    shared = [ious, *[weights(len(names))] * len(names), thresholds]
    plain = climb(judge, Setting(False, FuseConfig()), shared)
    ours = climb(judge, Setting(True, calib.fusion), [corners(calib), *shared, heads])
    ours = max((plain, ours), key=lambda setting: judge(setting).mean_ap())
    curves = calib if ours.curves else calib.without_curves()
    return replace(calib.without_curves(), fusion=plain.fusion), replace(curves, fusion=ours.fusion), held
