"""The experiments: fewer fit images, scores that differ, and what the claims and bounds follow from."""

import numpy as np
import pytest

from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.prae import benchmark
from experiments.prae.claims import BANDIT, FEW, METHODS, ROBUST, SETS, THETAS, TRANSFORMED, claims
from experiments.prae.data import smaller
from mmplugins.prae.verbs.compare import make_folds


def found_with(gain: dict | None = None, theta: float = 0.1, cubed: float = 50.0) -> Found:
    """Results in which every direction is as claimed, but for the gain of some methods, the bandit term, or cubes."""
    scores = {method.name: dict(mAP=50.0) for method in METHODS}
    for method in METHODS:
        if method.baseline:
            value = (gain or {}).get(method.name, 1.0)
            difference = {metric: [value, value - 0.5, value + 0.5] for metric in ('mAP', 'AP50')}
            scores[method.name] = dict(mAP=50 + value, difference=difference)
    results = {Job('sets', label, 0): dict(scores=scores) for label in SETS}
    for arm in FEW:
        fits = {method.name: [50.0, 51.0, 52.0] for method in BANDIT}
        fits[THETAS[0]] = [value + theta + noise for value, noise in zip(fits[THETAS[1]], (0, 0.01, 0.02), strict=True)]
        fits[THETAS[1]] = [value - 1 for value in fits[THETAS[1]]]
        results[Job('few', arm, 0)] = fits
    for arm in TRANSFORMED:
        results[Job('transforms', arm, 0)] = dict(mAP=cubed if arm == f'{ROBUST}, cubed' else 50.0)
    return Found(results)


def verdicts(found: Found) -> list[str]:
    return [to_json(claim)['verdict'] for claim in claims(found)]


def test_claims_hold_where_every_direction_is_right():
    assert verdicts(found_with()) == ['holds'] * 7


@pytest.mark.parametrize(
    ('changes', 'wrong'),
    [
        (dict(gain={'official, WBF .7': -1.0}), {0}),
        (dict(gain={ROBUST: -1.0}), {1, 4}),
        (dict(gain={'official, NMS .5': -1.0}), {2}),
        (dict(gain={'robust, NMS .5': -1.0}), {3}),
        (dict(cubed=50.1), {5}),
        (dict(theta=-0.5), {6}),
    ],
)
def test_a_claim_fails_where_its_direction_is_wrong(changes, wrong):
    expected = ['does not hold' if place in wrong else 'holds' for place in range(7)]
    assert verdicts(found_with(**changes)) == expected


def test_an_interval_around_zero_decides_nothing():
    assert verdicts(found_with(gain={'robust, NMS .5': 0.1}))[3] == 'undecided'


def test_fewer_fit_images_leave_the_test_images_alone(ground_truth, detector):
    gt = ground_truth()
    fold = make_folds(gt, dict(a=detector(gt, 1)))[0]
    part, same = smaller(fold, 10, 0), smaller(fold, None, 0)
    assert len(part.fit_gt.dataset) == 10 and part.fit_tables['a'].image.max() < 10
    assert part.test_gt is fold.test_gt and part.test_tables is fold.test_tables
    again, other = (smaller(fold, 10, draw).fit_gt.dataset.image_ids for draw in (0, 1))
    assert again == part.fit_gt.dataset.image_ids != other
    np.testing.assert_array_equal(same.fit_tables['a'].score, fold.fit_tables['a'].score)


def test_scores_differ_after_apart_and_keep_their_order(ground_truth, detector):
    table = detector(ground_truth(), 1)
    table = table.with_scores(table.score.round(1))
    scores = benchmark.apart(table).score
    assert len(np.unique(scores)) == len(scores) > len(np.unique(table.score))
    np.testing.assert_allclose(scores, table.score.clip(0, 0.999), rtol=0, atol=1e-6)


def test_bounds_are_on_heads_and_memory():
    times = {'ours': dict(seconds=1.0), 'ensemble-boxes': dict(seconds=3.0)}
    measured = {
        'apply, 5 boxes': {'ours': dict(seconds=90.0, peak=1.5e9)},
        'nms, 2 detectors': times,
        'wbf, 2 detectors': times,
        'refinement': {'ours': dict(seconds=9.0)},
    }
    found = [bound.to_json()['verdict'] for bound in benchmark.bounds(measured)]
    assert found == ['holds', 'holds', 'does not hold']
