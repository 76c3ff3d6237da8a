"""Curves: statistics of a detector whose calibration is known, and properties."""

import numpy as np
import pytest
from scipy.optimize import minimize

from mmplugins.prae import FitConfig, fit_config
from mmplugins.prae.calibration.curves import fit_curve, pool_adjacent_violators


def calibrated(num: int, seed: int = 0):
    """Scores in [0, 1] that are right as often as they say."""
    rng = np.random.default_rng(seed)
    scores = rng.random(num)
    return scores, (rng.random(num) < scores).astype(float)


def test_calibrated_scores_stay_what_they_are():
    scores, target = calibrated(20000)
    levels = fit_curve(scores, target, len(scores), fit_config('official', theta=0.0)).levels
    spread = 3 * np.sqrt(levels.center * (1 - levels.center) / levels.n) + 1 / levels.n  # + 1: the box to begin with
    assert (np.abs(levels.sp - levels.center) < spread).all(), np.abs(levels.sp - levels.center) / spread


def test_levels_of_equal_evidence_recover_the_probability():
    scores, target = calibrated(40000)
    curve = fit_curve(scores, target, len(scores), FitConfig())
    at = np.linspace(0.02, 0.98, 25)
    assert np.abs(curve(at) - at).max() < 0.04


@pytest.mark.parametrize('options', [{}, dict(theta=0.5), dict(shrink=0.0), dict(num_levels=1), dict(prior='pav')])
@pytest.mark.parametrize('scale', [lambda s: s, lambda s: s.astype(np.float32), lambda s: np.log(s / (1 - s)) * 9 + 70])
def test_different_scores_stay_different_and_in_order(options, scale):
    scores, target = calibrated(3000)
    curve = fit_curve(scale(scores), target, 3000, FitConfig(**options))
    other = np.sort(scale(np.concatenate([calibrated(20000, seed=1)[0], [1e-9, 1 - 1e-9]])))
    other = np.concatenate([other[:1] - 50, other, other[-1:] + 50])
    refined = curve(other)
    assert (np.diff(refined)[np.diff(other) > 0] > 0).all()
    assert (refined >= 0).all() and (refined <= 1).all()


def test_levels_divide_hits_where_boxes_are_many_and_weak():
    scores, target = calibrated(1000)
    weak = np.random.default_rng(1).uniform(0, 1e-3, 300000)
    alone = fit_curve(scores, target, 1000, FitConfig())
    curve = fit_curve(np.concatenate([scores, weak]), np.concatenate([target, 0 * weak]), 301000, FitConfig())
    at = np.linspace(0.1, 0.98, 25)
    assert np.abs(curve(at) - at).max() < np.abs(alone(at) - at).max() + 0.05


def test_many_boxes_without_bonus_give_the_ratio_of_hits():
    scores, target = calibrated(200000)
    levels = fit_curve(scores, target, len(scores), fit_config('official', theta=0.0)).levels
    np.testing.assert_allclose(levels.sp, levels.hits / levels.n, atol=1e-12)
    inside = [target[(scores >= c - 0.02) & (scores <= c + 0.02)].mean() for c in levels.center]
    np.testing.assert_allclose(levels.sp, inside, atol=1e-3)


def test_bonus_falls_with_the_number_of_boxes():
    values = []
    for num in (10, 100, 1000):
        scores, target = np.full(num, 0.5), np.arange(num) % 2
        levels = fit_curve(scores, target, 1000, fit_config('official')).levels
        values.append(levels.sp[11] - levels.hits[11] / levels.n[11])
    assert values[0] > values[1] > values[2] > 0


@pytest.mark.parametrize('preset', ['official', 'robust'])
@pytest.mark.parametrize('theta', [0.0, 0.1, 0.5])
def test_empty_levels_and_few_boxes_are_finite(preset, theta):
    for num in (1, 2, 3, 5):
        scores, target = calibrated(num)
        curve = fit_curve(scores * 0.1 + 0.5, target, num, fit_config(preset, theta=theta))
        assert np.isfinite(curve.levels.sp).all()
        assert np.isfinite(curve(np.array([0.05, 0.5, 0.55, 0.9]))).all()


def test_no_box_gives_identity_with_a_warning():
    with pytest.warns(UserWarning, match='scores stay as they are'):
        curve = fit_curve(np.zeros(0), np.zeros(0), 0, FitConfig())
    assert curve(np.array([0.3, 7.0])).tolist() == [0.3, 7.0]


def test_equal_scores_are_of_one_level():
    scores = np.repeat([0.1, 0.2, 0.3], 500)
    curve = fit_curve(scores, np.tile([0, 1, 1, 1, 1], 300).astype(float), 1500, FitConfig())
    assert curve.levels.n.tolist() == [500, 500, 500]


def test_pool_adjacent_violators_is_the_nearest_rising_sequence():
    rng = np.random.default_rng(0)
    value, weight = rng.random(7), rng.integers(1, 9, 7).astype(float)
    rising = [dict(type='ineq', fun=lambda x, i=i: x[i + 1] - x[i]) for i in range(6)]
    found = minimize(lambda x: (weight * (x - value) ** 2).sum(), np.sort(value), constraints=rising, tol=1e-12)
    np.testing.assert_allclose(pool_adjacent_violators(value, weight), found.x, atol=1e-5)


def test_shrinkage_goes_from_prior_to_ratio():
    scores, target = calibrated(400)
    free = fit_curve(scores, target, 400, FitConfig(shrink=0.0, monotone=False)).levels
    tied = fit_curve(scores, target, 400, FitConfig(shrink=1e9, monotone=False)).levels
    np.testing.assert_allclose(free.sp, free.hits / free.n)
    for k, center in enumerate(tied.center):
        near = [np.exp(-((center - other) ** 2) / 2 / 0.1**2) for other in tied.center]
        mean = sum(w * sp for w, sp in zip(near, free.sp, strict=True)) / sum(near)
        assert tied.sp[k] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(levels='odd'), 'levels'),
        (dict(theta=-1), 'theta'),
        (dict(num_levels=0), 'num_levels'),
        (dict(match='any'), 'one-to-one'),
        (dict(score_transform='log'), 'score_transform'),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        FitConfig(**options)
