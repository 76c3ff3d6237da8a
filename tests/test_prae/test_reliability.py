"""Calibration errors against loops, and for scores that are calibrated."""

import numpy as np
import pytest

from mmplugins.prae.calibration.reliability import d_ece, ece, reliability


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    scores = rng.random(5000)
    return scores, (rng.random(5000) < scores**2).astype(float), rng.uniform(0, 100, (5000, 2))


def test_ece_is_a_loop(case):
    scores, target, _ = case
    total = 0.0
    for number in range(25):
        rows = (scores >= number / 25) & (scores < (number + 1) / 25)
        total += abs(scores[rows].mean() - target[rows].mean()) * rows.sum()
    assert ece(scores, target) == pytest.approx(total / len(scores), abs=1e-12)


def test_calibrated_scores_have_little_error(case):
    scores, target, _ = case
    assert ece(scores**2, target) < 0.04 < 0.1 < ece(scores, target)


def test_d_ece_is_a_loop(case):
    scores, target, corner = case
    box = np.concatenate([corner, corner + 20], axis=1)
    cells: dict = {}
    for row in range(len(scores)):
        values = (scores[row], *((box[row, :2] + box[row, 2:]) / 2 / 200), *((box[row, 2:] - box[row, :2]) / 200))
        cells.setdefault(tuple(min(int(v * 5), 4) for v in values), []).append(row)
    total = sum(abs((scores[rows] - target[rows]).sum()) for rows in cells.values())
    assert d_ece(scores, target, box, np.full((5000, 2), 200.0)) == pytest.approx(total / 5000, abs=1e-12)


def test_scores_out_of_range_and_no_scores():
    score, value, count = reliability(np.array([-3.0, 1.0, 7.0]), np.array([0.0, 1.0, 1.0]))
    assert count.tolist() == [1, 2]
    assert ece(np.zeros(0), np.zeros(0)) == d_ece(np.zeros(0), np.zeros(0), np.zeros((0, 4)), np.zeros((0, 2))) == 0
