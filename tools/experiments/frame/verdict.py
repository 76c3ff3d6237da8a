"""One rule for all claims: the 95 % interval of the mean, against the side on which it is expected.

*holds*: the interval lies on the expected side of the bound. *does not hold*: it lies on the other. *undecided*: the
bound is inside, and so many more seeds would decide if the spread stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import t as student

HOLDS, FAILS, UNDECIDED = 'holds', 'does not hold', 'undecided'
CONFIDENCE = 0.95
MOST_SEEDS = 1000  # a number of seeds above says only that it will not be decided this way


def half_width(std: float, count: int) -> float:
    """Half of the 95 % interval of a mean of ``count`` normal values of standard deviation ``std`` (Student's t)."""
    return student.ppf((1 + CONFIDENCE) / 2, count - 1) * std / math.sqrt(count)


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
        """Return the 95 % interval; None if there are no values, or one that tells nothing of the spread."""
        if self.interval is not None:
            return self.interval
        if self.exact and self.values:
            return self.mean, self.mean
        if len(self.values) < 2:
            return None
        half = half_width(stdev(self.values.values()), len(self.values))
        return self.mean - half, self.mean + half

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

        It is the least number whose interval, at the mean and spread seen so far, leaves out the bound.
        """
        if self.verdict() != UNDECIDED or self.interval is not None or len(self.values) < 2:
            return None
        distance, spread = abs(self.mean - self.bound), stdev(self.values.values())
        counts = range(len(self.values) + 1, MOST_SEEDS)
        return next((count for count in counts if half_width(spread, count) < distance), MOST_SEEDS)


def verdict_of(comparisons: Sequence[Comparison]) -> str:
    """Verdict of a claim with several comparisons: all must hold, and one that fails decides.

    Each is judged at 95 % without a correction: that all hold by chance is less likely than that one does.
    """
    found = {comparison.verdict() for comparison in comparisons} or {UNDECIDED}
    return FAILS if FAILS in found else UNDECIDED if UNDECIDED in found else HOLDS
