"""The rule by which claims are judged."""

import numpy as np
import pytest
import scipy.stats

from experiments.frame.verdict import FAILS, HOLDS, UNDECIDED, Comparison, half_width, verdict_of


def comparison(values, **sides):
    return Comparison('a minus b', 'AP', dict(enumerate(values)), **(sides or dict(above=0.0)))


@pytest.mark.parametrize('count', [2, 3, 5, 10])
def test_interval_covers_the_truth_in_95_of_100_runs(count):
    draws = np.random.default_rng(count).normal(0.3, 2.0, (4000, count))
    bounds = [comparison(row).bounds() for row in draws[:2000].tolist()]
    covered = np.mean([low <= 0.3 <= high for low, high in bounds])
    assert abs(covered - 0.95) <= 0.02


def test_interval_is_that_of_a_t_test():
    values = [0.1, 0.4, -0.2, 0.3]
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert comparison(values).bounds() == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ('values', 'sides', 'verdict'),
    [
        ([1.0, 1.1, 0.9], dict(above=0.0), HOLDS),
        ([-1.0, -1.1, -0.9], dict(above=0.0), FAILS),
        ([-1.0, 1.1, 0.9], dict(above=0.0), UNDECIDED),
        ([1.0, 1.1, 0.9], dict(below=0.0), FAILS),
        ([1.0, 1.1, 0.9], dict(below=2.0), HOLDS),
        ([1.0, 1.1, 0.9], dict(above=2.0), FAILS),
        ([5.0], dict(above=0.0), UNDECIDED),  # one seed tells nothing of the spread
        ([5.0], dict(above=5.0, exact=True), HOLDS),
        ([5.0], dict(below=4.9, exact=True), FAILS),
        ([0.2], dict(above=0.0, interval=(0.1, 0.3)), HOLDS),
        ([0.2], dict(above=0.0, interval=(-0.1, 0.3)), UNDECIDED),
        ([0.5, 0.5, 0.5], dict(above=0.0), UNDECIDED),
        # That 24 shares do not differ may be chance, that 100 do not is none.
        ([0.0] * 24, dict(above=-0.05, limits=(-1, 1)), UNDECIDED),
        ([0.0] * 100, dict(above=-0.05, limits=(-1, 1)), HOLDS),
        ([0.0] * 23 + [1.0], dict(above=-0.05), HOLDS),
        # One that differs tells no more.
        ([0.0] * 23 + [1.0], dict(above=-0.05, limits=(-1, 1)), UNDECIDED),
        ([1.0] * 35 + [0.0], dict(above=0.91, limits=(0, 1)), UNDECIDED),
    ],
)
def test_verdict(values, sides, verdict):
    assert comparison(values, **sides).verdict() == verdict


@pytest.mark.parametrize('count', [5, 24, 100])
def test_interval_of_equal_shares_is_that_of_clopper_and_pearson(count):
    exact = scipy.stats.binomtest(count, count).proportion_ci(0.95, 'exact')
    assert comparison([1.0] * count, above=0, limits=(0, 1)).bounds() == pytest.approx((exact.low, exact.high))
    low, high = comparison([0.0] * count, above=0, limits=(-1, 1)).bounds()
    assert (-low, high) == pytest.approx((1 - exact.low,) * 2)


@pytest.mark.parametrize('share', [0.05, 0.5, 0.9, 0.98])
def test_a_claim_on_a_share_that_is_not_above_holds_by_chance_in_one_of_40_runs_at_most(share):
    count = 36
    holds = [
        comparison([1.0] * ones + [0.0] * (count - ones), above=share, limits=(0, 1)).verdict() == HOLDS
        for ones in range(count + 1)
    ]
    assert scipy.stats.binom.pmf(range(count + 1), count, share)[holds].sum() <= 0.025


def test_intervals_keep_to_the_limits():
    values = [1.0] * 23 + [0.8]
    low, high = comparison(values, above=0.9, limits=(0, 1)).bounds()
    assert 0.8 < low < 0.9 and high == 1


def test_who_has_more_seeds_than_are_ever_asked_for_is_told_no_number():
    values = [1.0, -1.0] * 750
    assert comparison(values, above=0).verdict() == UNDECIDED and comparison(values, above=0).needed() is None


def test_looking_again_does_not_make_untrue_claims_hold():
    draws = np.random.default_rng(0).normal(0.0, 1.0, (4000, 6))

    def holds(row: list[float], corrected: bool) -> bool:
        looks = ()
        for count in (3, 4, 5, 6):
            seen = Comparison('a minus b', 'AP', dict(enumerate(row[:count])), above=0.0, looks=looks)
            if seen.verdict() != UNDECIDED:
                break
            looks += (count,) if corrected else ()
        return seen.verdict() == HOLDS

    naive, ours = (np.mean([holds(row, corrected) for row in draws.tolist()]) for corrected in (False, True))
    assert naive > 0.05 > ours


def test_needed_seeds_decide_and_one_less_does_not():
    undecided = comparison([-0.5, 1.5, 0.8, 0.2])
    needed, spread = undecided.needed(), np.std([-0.5, 1.5, 0.8, 0.2], ddof=1)
    assert half_width(spread, needed, looks=1) < 0.5 <= half_width(spread, needed - 1, looks=1)


@pytest.mark.parametrize(
    ('values', 'needed'),
    [([1.0, 1.1, 0.9], None), ([1.0], None), ([1.0, -1.0], 1000), ([0.0, 0.0], None)],
    ids=['decided', 'one', 'zero', 'equal'],
)
def test_needed_seeds_where_there_is_no_such_number(values, needed):
    assert comparison(values).needed() == needed


def test_a_claim_needs_all_its_comparisons():
    good, bad, open_ = comparison([1.0, 1.1]), comparison([-1.0, -1.1]), comparison([-1.0, 1.1])
    assert verdict_of([good, good]) == HOLDS
    assert verdict_of([good, open_]) == UNDECIDED
    assert verdict_of([open_, bad, good]) == FAILS
    assert verdict_of([]) == UNDECIDED


@pytest.mark.parametrize('sides', [dict(above=0.0, below=1.0), dict(exact=True)])
def test_one_side_is_asked_for(sides):
    with pytest.raises(ValueError, match='one of above and below'):
        comparison([1.0], **sides)


def test_without_values_nothing_is_decided():
    empty = comparison([])
    assert (empty.mean, empty.bounds(), empty.verdict(), empty.needed()) == (None, None, UNDECIDED, None)
