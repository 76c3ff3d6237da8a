"""Intrinsic dimension of a set of features, three estimators.

Not in the paper as far as we could read it: which estimator. Ours is PCA with 90 % of the variance; TwoNN and the
maximum likelihood estimator stand beside it. ``P`` points, ``F`` features.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor


def explained_variance(features: Tensor) -> Tensor:
    """Return the share of the variance of each principal component ``(min(P, F),)``, largest first.

    Args:
        features: ``(P, F)``.

    Raises:
        ValueError: Fewer than two points, or all are the same.
    """
    features = check(features)
    centered = features - features.mean(0)
    variance = torch.linalg.svdvals(centered).square()
    total = variance.sum()
    if total <= 1e-20 * max(1.0, features.abs().max().item() ** 2):
        raise ValueError('all features are the same: their dimension is not defined')
    return variance / total


def pca_dimension(features: Tensor, share: float = 0.9) -> int:
    """Number of principal components that hold ``share`` of the variance of ``(P, F)``."""
    cumulative = explained_variance(features).cumsum(0)
    # Equal variances of r directions shall give ceil(share * r), not one more by rounding.
    return int((cumulative < share - 1e-9).sum()) + 1


def two_nn(features: Tensor, discard: float = 0.1) -> float:
    """TwoNN (Facco et al., 2017): the ratio of the distances to the second and first neighbor is Pareto distributed.

    Args:
        features: ``(P, F)``.
        discard: Share of the largest ratios that is left out of the fit through the origin.
    """
    nearest = neighbor_distances(features, 2)
    mu = (nearest[:, 1] / nearest[:, 0]).sort().values
    empirical = torch.arange(1, len(mu) + 1, dtype=mu.dtype) / len(mu)
    keep = int(len(mu) * (1 - discard))
    x, y = mu[:keep].log(), -(1 - empirical[:keep]).log()
    return float((x @ y) / (x @ x))


def levina_bickel(features: Tensor, neighbors: int = 10) -> float:
    """Maximum likelihood (Levina and Bickel, 2004), means of inverses as MacKay and Ghahramani corrected it.

    Args:
        features: ``(P, F)``.
        neighbors: Of each point, fewer if there are fewer points. Levina and Bickel take 10 to 20; the nearer they are,
            the less the edges of the data matter.
    """
    neighbors = min(neighbors, len(features) - 1)
    if neighbors < 3:
        raise ValueError(f'the estimator needs at least 4 points, got {len(features)}')
    distances = neighbor_distances(features, neighbors).log()
    # The mean over the other neighbors estimates the inverse of the dimension without bias.
    inverse = (distances[:, -1:] - distances[:, :-1]).mean(1)
    return float(1 / inverse.mean())


def neighbor_distances(features: Tensor, neighbors: int, rows: int = 1024) -> Tensor:
    """Return the distances to the nearest points ``(P', neighbors)``, of points that have no twin.

    Args:
        features: ``(P, F)``.
        neighbors: How many.
        rows: Points whose distances to all are in memory at once.
    """
    features = check(features).unique(dim=0)
    if len(features) <= neighbors:
        raise ValueError(f'{len(features)} different points are too few for {neighbors} neighbors')
    nearest = []
    for start in range(0, len(features), rows):
        some = features[start : start + rows]
        distances = torch.cdist(some, features, compute_mode='donot_use_mm_for_euclid_dist')
        distances[range(len(some)), range(start, start + len(some))] = math.inf  # a point is not its neighbor
        nearest.append(distances.topk(neighbors, largest=False).values)
    return torch.cat(nearest)


def check(features: Tensor) -> Tensor:
    """Return ``(P, F)`` features as doubles on the CPU."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f'features must be (points, features) with two points or more, got {tuple(features.shape)}')
    if not features.isfinite().all():
        raise ValueError('features are not finite')
    return features.detach().double().cpu()


ESTIMATORS: dict[str, Callable[[Tensor], float]] = {
    'pca90': pca_dimension,
    'pca95': lambda features: pca_dimension(features, 0.95),
    'twonn': two_nn,
    'mle': levina_bickel,
}


def intrinsic_dimension(features: Tensor, estimator: str = 'pca90') -> float:
    """Estimate the intrinsic dimension of ``(P, F)`` features by ``pca90``, ``pca95``, ``twonn`` or ``mle``.

    Invariant to rotation, shift and scale.

    Raises:
        ValueError: An unknown estimator, or too few different points.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f'estimator must be one of {sorted(ESTIMATORS)}, got {estimator!r}')
    return float(ESTIMATORS[estimator](features))


def dimension_or_nan(features: Tensor, estimator: str) -> float:
    """Like ``intrinsic_dimension`` of ``(P, F)``, but a warning and nan where it is undefined: a run goes on."""
    try:
        return intrinsic_dimension(features, estimator)
    except ValueError as error:
        warnings.warn(f'no intrinsic dimension: {error}', stacklevel=2)
        return math.nan
