"""Curves from confidence to statistical probability (SP) of being right: the bandit stage of arXiv 2105.03139.

SP of a level is the UCB1 index with levels as arms, boxes as pulls and hits as rewards:
``hits / n + theta sqrt(2 ln N / n)`` (authors' code, bandit.py). Not in the paper: levels of equal evidence, the prior,
and that such curves depend on the order of scores only and never make two different scores equal.

Evidence: half of it are the boxes, half the hits. Levels that divide the boxes alone put the whole top of the ranking
into one level where weak boxes are many, as the 300 queries of a DETR.

Letters: ``M`` fit boxes, ``K`` levels, ``S`` thresholds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from .options import FitConfig

WIDTH = 0.04  # of a fixed level, authors' code
NUM_FIXED = 24
MAX_STEPS = 1024
BANDWIDTH = 0.1  # of the smooth prior, on the axis of the levels
TIE = 1e-9  # how far apart, at most, different scores of equal probability are put


@dataclass(frozen=True)
class Levels:
    """What was counted at each level; plots and checks read it.

    Args:
        center: ``(K,)``, evidence below the middle of a level, in [0, 1]; score, of fixed ones.
        sp: ``(K,)``, statistical probability.
        n: ``(K,)``, boxes. Fixed levels start from one, as in the authors' code.
        hits: ``(K,)``, sum of the targets.
    """

    center: ndarray
    sp: ndarray
    n: ndarray
    hits: ndarray


@dataclass(frozen=True)
class Curve:
    """The map of one detector, or of one category of it.

    Args:
        kind: ``table``: a step for each of the ``S + 1`` intervals between thresholds. ``scaled``: score times SP /
            center of its fixed level. ``identity``: there was nothing to fit.
        thresholds: ``(S,)``, ascending fit scores.
        steps: ``(S + 1,)``, SP in each interval.
        levels: What the curve was made from.
        transform: See ``score_transform`` of :class:`FitConfig`.
        limits: Lowest and highest fit score, for ``minmax``.
        ranks: ``(S + 1,)``, evidence below the middle of each interval, in [0, 1].
    """

    kind: str
    thresholds: ndarray
    steps: ndarray
    levels: Levels
    transform: str | None = None
    limits: tuple[float, float] = (0.0, 1.0)
    ranks: ndarray = field(default_factory=lambda: np.zeros(0))

    def __call__(self, scores: ndarray) -> ndarray:
        """Refine scores.

        Args:
            scores: ``(M,)``.

        Returns:
            ``(M,)``; NaN where the authors' code drops the box, score < 0.04 (``scaled`` only).

        Raises:
            ValueError: If ``scaled`` gets scores outside [0, 1] and no transform.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if self.kind == 'identity':
            return scores.copy()
        if self.kind == 'table':
            place = np.searchsorted(self.thresholds, scores, side='right')
            order = place + self._within(scores, place)
            return self.steps[place] * (1 - TIE * (MAX_STEPS + 1)) + TIE * order
        scores = to_unit(scores, self.transform, self.limits)
        # Floor division of floats, as in the authors' code: 0.12, 0.24 and 0.6 fall one level low.
        level = np.minimum(scores // WIDTH, NUM_FIXED).astype(np.int64) - 1
        ratio = self.levels.sp / self.levels.center
        return np.where(scores < WIDTH, np.nan, scores * ratio[np.maximum(level, 0)])

    def _within(self, scores: ndarray, place: ndarray) -> ndarray:
        """Where in its interval a score lies, in [0, 1]; the outer intervals have no end, so it is approached."""
        first, last = self.thresholds[[0, -1]]
        scale = last - first or 1.0
        low, high = self.thresholds[np.maximum(place - 1, 0)], self.thresholds[np.minimum(place, len(self.ranks) - 2)]
        inner = (scores - low) / np.where(high > low, high - low, 1.0)
        below, above = np.maximum(first - scores, 0) / scale, np.maximum(scores - last, 0) / scale
        outer = np.where(place == 0, 1 / (1 + below), above / (1 + above))
        return np.where((place > 0) & (scores < last), inner, outer)


def to_unit(scores: ndarray, transform: str | None, limits: tuple[float, float]) -> ndarray:
    """Bring scores to [0, 1] for fixed levels; see ``score_transform`` of :class:`FitConfig`."""
    if transform == 'sigmoid':
        return 1 / (1 + np.exp(-scores))
    if transform == 'minmax':
        low, high = limits
        return np.clip((scores - low) / max(high - low, 1e-300), 0, 1)
    outside = (scores < 0) | (scores > 1)
    if outside.any():
        raise ValueError(
            f'{int(outside.sum())} scores are outside [0, 1], the first is {scores[outside][0]:.4g}: fixed levels '
            f"(preset 'official') need score_transform 'sigmoid' for logits or 'minmax', or use the preset 'robust'"
        )
    return scores


def identity() -> Curve:
    """The curve that changes nothing: plain NMS or weighted boxes fusion."""
    empty = np.zeros(0)
    return Curve('identity', empty, empty, Levels(empty, empty, empty, empty))


def fit_curve(scores: ndarray, target: ndarray, num_boxes: int, cfg: FitConfig, prior: Curve | None = None) -> Curve:
    """Fit one curve.

    Args:
        scores: ``(M,)``, of the boxes that count.
        target: ``(M,)``, in [0, 1]; 1 is right.
        num_boxes: All boxes of the detector's file, ``N`` of the authors' bound for fixed levels.
        cfg: Options.
        prior: The detector's curve, when this one is of a category; its levels and thresholds are used.
    """
    if not len(scores) and cfg.levels == 'equal':
        warnings.warn('no box to fit a curve on: scores stay as they are', stacklevel=2)
        return identity()
    limits = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    if prior is not None:
        limits = prior.limits
    if cfg.levels == 'fixed':
        return _fit_fixed(to_unit(scores, cfg.score_transform, limits), target, num_boxes, cfg, prior, limits)
    return _fit_equal(scores, target, cfg, prior, limits)


def _fit_fixed(
    scores: ndarray, target: ndarray, num_boxes: int, cfg: FitConfig, prior: Curve | None, limits: tuple
) -> Curve:
    """Levels of the authors' code: both ends closed, one box and no hit to begin with."""
    edges = np.array([WIDTH * (k + 1) for k in range(NUM_FIXED + 1)])
    order = np.argsort(scores, kind='stable')
    ranked, total = scores[order], np.concatenate([[0.0], np.cumsum(target[order])])
    low, high = np.searchsorted(ranked, edges[:-1], 'left'), np.searchsorted(ranked, edges[1:], 'right')
    n, hits = 1.0 + high - low, total[high] - total[low]
    center = edges[1:] - WIDTH / 2
    sp = _probability(center, n, hits, num_boxes, cfg, None if prior is None else prior.levels.sp)
    empty = np.zeros(0)
    return Curve('scaled', empty, empty, Levels(center, sp, n, hits), cfg.score_transform, limits)


def _fit_equal(scores: ndarray, target: ndarray, cfg: FitConfig, prior: Curve | None, limits: tuple) -> Curve:
    """Levels of equal evidence of the ranked scores, and the table that interpolates them."""
    if prior is None:
        order = np.argsort(scores, kind='stable')
        ranked, evidence = scores[order], _evidence(target[order])
        edges = _quantiles(ranked, evidence, cfg.num_levels + 1)[1:-1]
        level = np.searchsorted(edges, scores, side='right')  # equal scores stay together
        used, level = np.unique(level, return_inverse=True)
        n = np.bincount(level, minlength=len(used)).astype(np.float64)
        center = _middles(evidence, np.cumsum(n).astype(np.int64)[:-1])
        thresholds = np.unique(_quantiles(ranked, evidence, MAX_STEPS - 1))
        rank = _middles(evidence, np.searchsorted(ranked, thresholds))
        prior_sp = None
    else:
        # On the detector's axis: a category's own boxes are too few to place levels.
        thresholds, rank, center, prior_sp = prior.thresholds, prior.ranks, prior.levels.center, prior.levels.sp
        position = rank[np.searchsorted(thresholds, scores, side='right')]
        middle = (center[1:] + center[:-1]) / 2
        level = np.searchsorted(middle, position)
        n = np.bincount(level, minlength=len(center)).astype(np.float64)
    hits = np.bincount(level, weights=target, minlength=len(center))
    sp = _probability(center, n, hits, n.sum(), cfg, prior_sp)
    steps = np.interp(rank, center, sp)
    return Curve('table', thresholds, steps, Levels(center, sp, n, hits), None, limits, rank)


def _evidence(target: ndarray) -> ndarray:
    """Share of the evidence among the lowest boxes, ``(M + 1,)`` from 0 to 1, of targets ``(M,)`` in order of score."""
    boxes = np.arange(len(target) + 1) / len(target)
    hits = np.concatenate([[0.0], np.cumsum(target)])
    return (boxes + hits / hits[-1]) / 2 if hits[-1] > 0 else boxes


def _quantiles(ranked: ndarray, evidence: ndarray, count: int) -> ndarray:
    """``count`` scores that divide the evidence, the first and last among them: each of them is a score of a box."""
    place = np.searchsorted(evidence, np.linspace(0, 1, count))
    return ranked[np.minimum(place, len(ranked) - 1)]


def _middles(evidence: ndarray, inner: ndarray) -> ndarray:
    """Evidence below the middle of each part, where parts begin at the boxes ``inner``."""
    bounds = np.concatenate([[0.0], evidence[inner], [1.0]])
    return (bounds[1:] + bounds[:-1]) / 2


def _probability(
    center: ndarray, n: ndarray, hits: ndarray, num_boxes: float, cfg: FitConfig, prior_sp: ndarray | None
) -> ndarray:
    """Statistical probability of each level: hit ratio, shrunk to a prior, plus the bound, made monotone, clipped."""
    ratio = hits / np.maximum(n, 1e-300)
    shrink = cfg.shrink if prior_sp is None else cfg.category_shrink
    if shrink > 0:
        prior = prior_sp if prior_sp is not None else _prior(center, ratio, n, cfg.prior)
        ratio = (hits + shrink * prior) / (n + shrink)
    elif prior_sp is not None:
        ratio = np.where(n > 0, ratio, prior_sp)
    weight = n + shrink
    sp = ratio + cfg.theta * np.sqrt(2 * np.log(max(num_boxes, 1)) / np.maximum(weight, 1))
    if cfg.monotone:
        sp = pool_adjacent_violators(sp, np.maximum(weight, 1e-9))
    return np.clip(sp, 0, 1) if cfg.clip else sp


def _prior(center: ndarray, ratio: ndarray, n: ndarray, kind: str) -> ndarray:
    """Smooth curve through the hit ratios, in [0, 1]."""
    if kind == 'pav':
        return pool_adjacent_violators(ratio, n)
    # Levels have about the same evidence, so they count the same: by boxes the many weak ones would pull down the rest.
    near = np.exp(-0.5 * ((center[:, None] - center) / BANDWIDTH) ** 2)
    return near @ ratio / near.sum(1)


def pool_adjacent_violators(value: ndarray, weight: ndarray) -> ndarray:
    """Non-decreasing sequence nearest to ``value`` ``(K,)`` in weighted squares."""
    blocks: list[list[float]] = []  # mean, weight, length
    for v, w in zip(value, weight, strict=True):
        blocks.append([float(v), float(w), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, mass, length = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + mean * mass) / (last[1] + mass)
            last[1] += mass
            last[2] += length
    return np.repeat([block[0] for block in blocks], [block[2] for block in blocks])
