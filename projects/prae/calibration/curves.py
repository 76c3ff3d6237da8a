"""Curves from confidence to statistical probability (SP) of being right: the bandit stage of arXiv 2105.03139.

SP of a level is the UCB1 index with levels as arms, boxes as pulls and hits as rewards:
``hits / n + theta sqrt(2 ln N / n)`` (authors' code, bandit.py). Not in the paper: equal-count levels, the prior, and
that equal-count curves depend on the order of scores only.

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


@dataclass(frozen=True)
class Levels:
    """What was counted at each level; plots and checks read it.

    Args:
        center: ``(K,)``, mid-rank in [0, 1] of equal-count levels, score of fixed ones.
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
        ranks: ``(S + 1,)``, mid-rank in [0, 1] of each interval of a table.
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
            return self.steps[np.searchsorted(self.thresholds, scores, side='right')]
        scores = to_unit(scores, self.transform, self.limits)
        # Floor division of floats, as in the authors' code: 0.12, 0.24 and 0.6 fall one level low.
        level = np.minimum(scores // WIDTH, NUM_FIXED).astype(np.int64) - 1
        ratio = self.levels.sp / self.levels.center
        return np.where(scores < WIDTH, np.nan, scores * ratio[np.maximum(level, 0)])


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
    """Equal-count levels of the ranked scores, and the table that interpolates them in rank."""
    ranked = np.sort(scores)
    if prior is None:
        picks = np.linspace(0, len(ranked), cfg.num_levels + 1)[1:-1].astype(np.int64)
        edges = np.unique(ranked[picks])
        level = np.searchsorted(edges, scores, side='right')  # equal scores stay together
        used, level = np.unique(level, return_inverse=True)
        n = np.bincount(level, minlength=len(used)).astype(np.float64)
        center = (np.cumsum(n) - n / 2) / n.sum()
        thresholds = _thresholds(ranked)
        bounds = np.concatenate([[0], np.searchsorted(ranked, thresholds), [len(ranked)]])
        rank = (bounds[1:] + bounds[:-1]) / 2 / len(ranked)
        prior_sp = None
    else:
        # In the ranks of the detector: a category's own boxes are too few to place 40 levels.
        thresholds, rank, center, prior_sp = prior.thresholds, prior.ranks, prior.levels.center, prior.levels.sp
        position = rank[np.searchsorted(thresholds, scores, side='right')]
        level = np.abs(position[:, None] - center).argmin(1)
        n = np.bincount(level, minlength=len(center)).astype(np.float64)
    hits = np.bincount(level, weights=target, minlength=len(center))
    sp = _probability(center, n, hits, n.sum(), cfg, prior_sp)
    steps = np.interp(rank, center, sp)
    return Curve('table', thresholds, steps, Levels(center, sp, n, hits), None, limits, rank)


def _thresholds(ranked: ndarray) -> ndarray:
    """Up to 1,023 quantiles of the scores, each of them a score: so the table depends on their order only."""
    picks = np.linspace(0, len(ranked) - 1, min(MAX_STEPS - 1, len(ranked))).round().astype(np.int64)
    return np.unique(ranked[picks])


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
    if kind == 'pav' or len(center) < 4:  # a parabola through three points is no smoothing
        return pool_adjacent_violators(ratio, n)
    # polyfit weights residuals before squaring.
    return np.clip(np.polyval(np.polyfit(center, ratio, deg=2, w=np.sqrt(n)), center), 0, 1)


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
