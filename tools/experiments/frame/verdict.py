"""One rule for all claims: the 95 % interval of the mean, against the side on which it is expected.

*holds*: the interval lies on the expected side of the bound. *does not hold*: it lies on the other. *undecided*: the
bound is inside, and so many seeds in all would decide if the spread stays what it is.

Who adds seeds to what was undecided looks again, and chance gets a second try. So each such look halves what is left to
chance: 5 % at the first, 2.5 % at the second. However often one looks, fewer than 5 of 100 untrue claims hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import beta
from scipy.stats import t as student

HOLDS, FAILS, UNDECIDED = 'holds', 'does not hold', 'undecided'
CHANCE = 0.05  # of an interval that misses the truth, at the first look
MOST_SEEDS = 1000  # a number of seeds above says only that it will not be decided this way


def confidence(looks: int) -> float:
    """Confidence of the interval after so many looks that decided nothing."""
    return 1 - CHANCE / 2**looks


def half_width(std: float, count: int, looks: int = 0) -> float:
    """Half of the interval of a mean of ``count`` normal values of standard deviation ``std`` (Student's t)."""
    return student.ppf((1 + confidence(looks)) / 2, count - 1) * std / math.sqrt(count)


@dataclass(frozen=True)
class Comparison:
    """A number that a claim is judged by, in most cases a difference of two arms, paired over seeds.

    Attributes:
        name: What is compared, ``'ours minus theirs'``.
        metric: Of what, with its unit.
        values: One value a seed (or an image, a fold; see ``unit``); none if nothing could be measured.
        above: The mean is expected above this.
        below: Or below this; exactly one of the two is given.
        exact: The values have no noise, as counts of parameters or operations: the mean alone decides, and a value on
            the bound is on the expected side.
        interval: Where it does not follow from ``values``, as of a bootstrap over images.
        unit: What ``values`` are counted in.
        looks: Numbers of values at which earlier runs left it undecided; the interval grows with each.
        limits: Least and greatest value that there can be, as of shares; the interval keeps to them, and equal values
            have one too.

    Raises:
        ValueError: Not exactly one of ``above`` and ``below``.
    """

    name: str
    metric: str
    values: Mapping[int, float]
    above: float | None = None
    below: float | None = None
    exact: bool = False
    interval: tuple[float, float] | None = None
    unit: str = 'seeds'
    looks: tuple[int, ...] = ()
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError(f'{self.name}: give one of above and below')

    @property
    def mean(self) -> float | None:
        """Mean of the values; None if there are none."""
        return mean(self.values.values()) if self.values else None

    @property
    def bound(self) -> float:
        """What the mean is held against."""
        return self.below if self.above is None else self.above

    def bounds(self) -> tuple[float, float] | None:
        """Return the interval; None if there are no values, or none that tell of the spread, as equal ones do not."""
        if self.interval is not None:
            return self.interval
        if self.exact and self.values:
            return self.mean, self.mean
        return self._bounds_of(len(self.values), len(self.looks)) if len(self.values) > 1 else None

    def _bounds_of(self, count: int, looks: int) -> tuple[float, float] | None:
        """Interval of ``count`` values of this mean and spread after so many looks."""
        spread = stdev(self.values.values())
        half = half_width(spread, count, looks)
        if self.limits is None:
            return (self.mean - half, self.mean + half) if spread > 0 else None
        low, high = self.limits
        chance = (1 - confidence(looks)) / 2
        if {*self.values.values()} <= {low, high}:  # a share, of which Clopper's and Pearson's is the exact interval
            ones = count * (self.mean - low) / (high - low)
            least = beta.ppf(chance, ones, count - ones + 1) if ones > 0 else 0.0
            most = beta.isf(chance, ones + 1, count - ones) if ones < count else 1.0
            return low + least * (high - low), low + most * (high - low)
        # The largest share of values at a limit of which so many show none by chance. A few that differ tell no more
        # than none: 23 equal ones and another have a small spread.
        others = 1 - chance ** (1 / count)
        return (
            max(low, self.mean - max(half, others * (self.mean - low))),
            min(high, self.mean + max(half, others * (high - self.mean))),
        )

    def verdict(self) -> str:
        """Return `HOLDS`, `FAILS` or `UNDECIDED`."""
        interval = self.bounds()
        if interval is None:
            return UNDECIDED
        sign = 1 if self.below is None else -1
        low, high = sorted(sign * (end - self.bound) for end in interval)
        if low > 0 or (self.exact and low == 0):
            return HOLDS
        return FAILS if high < 0 else UNDECIDED

    def needed(self) -> int | None:
        """Return how many values in all would decide; None if decided, or if that cannot be said.

        It is the least number whose interval, at the mean and spread seen so far and as that of one look more, leaves
        out the bound.
        """
        if (
            len(self.values) >= MOST_SEEDS
            or self.verdict() != UNDECIDED
            or self.interval is not None
            or self.bounds() is None
        ):
            return None

        def decides(count: int) -> bool:
            low, high = self._bounds_of(count, len(self.looks) + 1)
            return not low <= self.bound <= high

        return next(filter(decides, range(len(self.values) + 1, MOST_SEEDS)), MOST_SEEDS)


def verdict_of(comparisons: Sequence[Comparison]) -> str:
    """Verdict of a claim with several comparisons: all must hold, and one that fails decides.

    Each is judged without a correction. That all hold by chance is less likely than that one does; that one of many
    fails by chance is likelier, so read a claim of many comparisons by its table.
    """
    found = {comparison.verdict() for comparison in comparisons} or {UNDECIDED}
    return FAILS if FAILS in found else UNDECIDED if UNDECIDED in found else HOLDS
