"""The experiments: fewer fit images, scores that differ, and what the claims and bounds follow from."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.prae import benchmark
from experiments.prae.calibrated import gain_interval
from experiments.prae.claims import ALL, BANDIT, FEW, FEW_METHODS, FEW_PAIRS, SETS, TRANSFORMED, WEAK, MeanAP, claims
from experiments.prae.data import smaller, with_weak_boxes
from mmplugins.prae import fit
from mmplugins.prae.tuning.bootstrap import ResampledAP
from mmplugins.prae.tuning.folds import make_folds
from mmplugins.prae.tuning.held_out import Held
from mmplugins.prae.verbs.compare import METHODS, calibration_of

NUM_CLAIMS = 12


def found_with(
    gain: dict | None = None, theta: float = 0.1, cubed: float = 50.0, weak: float = 50.1, few: float = 1.0, ece=0.1
) -> Found:
    """Results in which every direction is as claimed, but for what is given."""
    scores = {method.name: dict(mAP=50.0) for method in ALL}
    for method in ALL:
        if method.baseline:
            value = (gain or {}).get(method.name, 1.0)
            difference = {metric: [value, value - 0.5, value + 0.5] for metric in ('mAP', 'AP50')}
            scores[method.name] = dict(mAP=50 + value, difference=difference)
    results = {Job('sets', label, 0): dict(scores=scores) for label in SETS}
    for arm in FEW:
        noise = np.array([0, 0.01, 0.02])
        fits = {method.name: np.array([50.0, 51.0, 52.0]) for method in FEW_METHODS}
        fits['PRAE'] = fits['WBF'] + few + noise
        fits['PRAE tuned'] = fits['WBF tuned'] + few + noise
        fits[BANDIT[0.1]] = fits[BANDIT[0.0]] + theta + noise
        fits[BANDIT[0.5]] = fits[BANDIT[0.0]] - 1
        gains = {f'{ours} minus {theirs}': (fits[ours] - fits[theirs]).mean() for ours, theirs in FEW_PAIRS}
        intervals = {name: [gain - 0.1, gain + 0.1] for name, gain in gains.items()}
        results[Job('few', arm, 0)] = dict(fits, intervals=intervals)
    for arm in TRANSFORMED:
        results[Job('transforms', arm, 0)] = dict(mAP=cubed if arm == 'PRAE, cubed' else 50.0)
    for arm in WEAK:
        for seed, noise in enumerate((0.0, 0.001, 0.002)):
            mean_ap = (weak if arm == 'PRAE, 300 weak boxes' else 50.0) + noise * (arm != 'PRAE, 0 weak boxes')
            results[Job('weak', arm, seed)] = dict(mAP=mean_ap)
    gain = ece - 0.2
    one = dict(errors={'ECE': [0.2, ece], 'LaECE': [0.2, 0.1]}, interval=[gain - 0.01, gain + 0.01])
    results[Job('calibration', 'E', 0)] = dict(a=one, fused=one, seconds=1.0)
    return Found(results)


def verdicts(found: Found) -> list[str]:
    return [to_json(claim)['verdict'] for claim in claims(found)]


def test_claims_hold_where_every_direction_is_right():
    assert verdicts(found_with()) == ['holds'] * NUM_CLAIMS


@pytest.mark.parametrize(
    ('changes', 'wrong'),
    [
        (dict(gain={'PRAE': -1.0}), {0, 1}),
        (dict(gain={'PRAE tuned': -1.0}), {2}),
        (dict(gain={'official': -1.0}), {3}),
        (dict(gain={'official, NMS': -1.0}), {4}),
        (dict(gain={'PRAE, NMS': -1.0}), {5}),
        (dict(cubed=50.1), {6}),
        (dict(weak=50.3), {7}),
        (dict(ece=0.3), {8}),
        (dict(few=-1.0), {9, 10}),
        (dict(theta=-0.5), {11}),
    ],
)
def test_a_claim_fails_where_its_direction_is_wrong(changes, wrong):
    expected = ['does not hold' if place in wrong else 'holds' for place in range(NUM_CLAIMS)]
    assert verdicts(found_with(**changes)) == expected


def test_an_interval_around_zero_decides_nothing():
    assert verdicts(found_with(gain={'PRAE, NMS': 0.1}))[5] == 'undecided'


def test_interval_of_the_gain_is_of_images_not_of_boxes(ground_truth, detector):
    table = detector(ground_truth(), 1)
    value, every = np.linspace(0, 1, len(table)), np.ones(len(table), bool)
    same = Held(table, table.score, value, every)
    assert gain_interval(same, len(ground_truth().dataset), 50) == (0.0, 0.0)
    right = replace(same, score=value)
    low, high = gain_interval(right, len(ground_truth().dataset), 200)
    assert low < right.errors(ground_truth())['ECE'][1] - same.errors(ground_truth())['ECE'][0] < high < 0
    copies = [np.tile(a, 4) for a in (table.image, table.category, table.score)]
    many = Held(
        type(table)(*copies, np.tile(table.box, (4, 1))), np.tile(value, 4), np.tile(value, 4), np.tile(every, 4)
    )
    assert gain_interval(many, len(ground_truth().dataset), 200) == pytest.approx((low, high))


def test_weak_boxes_are_more_boxes_with_lower_scores(ground_truth, detector):
    gt = ground_truth()
    table = detector(gt, 1)
    more = with_weak_boxes(gt, table, 5, (0, 0))
    assert len(more) == len(table) + 5 * len(gt.dataset)
    assert (np.sort(more.score)[: 5 * len(gt.dataset)] < 4e-3).all() and (np.diff(more.image) >= 0).all()


def test_prae_of_the_comparison_is_the_one_that_is_shipped(ground_truth, detector):
    gt = ground_truth()
    fold = make_folds(gt, dict(a=detector(gt, 1), b=detector(gt, 2)))[0]
    shipped = fit(fold.fit_tables, fold.fit_gt)
    assert shipped.fusion.corner_weights
    found = calibration_of(next(method for method in METHODS if method.name == 'PRAE'), fold, ['a', 'b'])
    assert found.fusion == shipped.fusion


def test_mean_of_fits_is_resampled_on_the_same_images(ground_truth, detector):
    gt = ground_truth()
    fits = [ResampledAP(detector(gt, seed), gt) for seed in (1, 2)]
    weights = np.random.default_rng(0).integers(0, 3, len(gt.dataset)).astype(float)
    np.testing.assert_allclose(MeanAP(fits)(weights), (fits[0](weights) + fits[1](weights)) / 2)


def test_fewer_fit_images_leave_the_test_images_alone(ground_truth, detector):
    gt = ground_truth()
    fold = make_folds(gt, dict(a=detector(gt, 1)))[0]
    part, same = smaller(fold, 10, 0), smaller(fold, 1000, 0)
    assert len(part.fit_gt.dataset) == 10 and part.fit_tables['a'].image.max() < 10
    np.testing.assert_array_equal(part.test_gt.box, fold.test_gt.box)
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
