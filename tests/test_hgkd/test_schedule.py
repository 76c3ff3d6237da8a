import math

import pytest

from mmplugins.hgkd.schedule import WeightSchedule


def test_constant():
    schedule = WeightSchedule(start=0.5)
    assert {schedule(epoch, 7 * epoch) for epoch in range(5)} == {0.5}


def test_linear_by_epoch():
    schedule = WeightSchedule('linear', start=2, end=0, begin=2, end_at=6)
    assert [schedule(epoch, 1000) for epoch in (0, 2, 3, 4, 6, 9)] == [2, 2, 1.5, 1, 0, 0]


def test_cosine_by_iteration():
    schedule = WeightSchedule('cosine', start=0, end=1, begin=10, end_at=20, by_epoch=False)
    for iteration in range(30):
        share = min(max((iteration - 10) / 10, 0), 1)
        assert schedule(99, iteration) == pytest.approx(math.sin(math.pi / 2 * share) ** 2)
