"""How one method's edits are held against another's: what they show, against how near they stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from experiments.frame.claims import Row, Values, minus
from experiments.frame.verdict import Comparison

CHOOSE = 1  # groups of images by which a strength is chosen; the others judge it
DIFFERENCE = (-1.0, 1.0)  # limits of that of two shares
FEWER = 0.05  # by which a share may be lower and still counts as equal


def by_image(groups: Mapping[int, Sequence[float]]) -> Values:
    """Values of groups of equal size, by the number of the image: groups that one of two arms lacks pair with none."""
    return {
        number * len(values) + place: float(value)
        for number, values in groups.items()
        for place, value in enumerate(values)
    }


class TradeOff:
    """Edits of a task by arm and strength.

    Args:
        groups: Of an arm, its groups of images by number, none if it was not run: ``edits`` of a group holds by
            strength and key a value of each image.
        labels: Keys of what an edit should show, each a share of images, and last that of how near it stays; with their
            names.
    """

    def __init__(self, groups: Callable[[str], Mapping[int, dict]], labels: Mapping[str, str]) -> None:
        self.groups, self.labels = groups, labels
        *self.shares, self.fidelity = labels

    def values(self, arm: str, eta: float, key: str, skip: int = 0) -> Values:
        """A number of each edited image, without those of the first ``skip`` groups."""
        groups = self.groups(arm).items()
        return by_image({number: group['edits'][str(eta)][key] for number, group in groups if number >= skip})

    def rows(self, arm: str, etas: Sequence[float]) -> list[Row]:
        """All numbers of an arm, to be shown."""
        return [
            Row(f'{arm}, eta {eta:g}', label, self.values(arm, eta, key))
            for eta in etas
            for key, label in self.labels.items()
        ]

    def points(self, arm: str, first: int | None = None) -> dict[float, tuple[float, ...]]:
        """For each strength what ``labels`` name, mean over the ``first`` groups, by default over all."""
        groups = [group for number, group in self.groups(arm).items() if first is None or number < first]

        def share(eta: str, key: str) -> float:
            return mean(mean(map(float, group['edits'][eta][key])) for group in groups)

        return {
            float(eta): tuple(share(eta, key) for key in self.labels) for eta in (groups[0]['edits'] if groups else ())
        }

    def best_eta(self, arm: str, other: tuple[str, float]) -> float:
        """The strength that stays nearest of those that show no less than another edit, to be judged."""
        shares = self.points(other[0], CHOOSE).get(other[1], ())[:-1]
        mine = {eta: point for eta, point in self.points(arm, CHOOSE).items() if (arm, eta) != other}
        good = {eta: point for eta, point in mine.items() if all(a >= b for a, b in zip(point, shares, strict=False))}
        return max(good or mine, key=lambda eta: mine[eta][-1], default=math.nan)

    def success(self, arm: str) -> dict[float, tuple[float, float]]:
        """For each strength, on the groups that choose: the least share, and how near it stays."""
        return {eta: (min(shares), near) for eta, (*shares, near) in self.points(arm, CHOOSE).items()}

    def best_arm(self, *arms: str) -> str:
        """The arm whose best strength edits best, on the groups that choose."""
        return max(arms, key=lambda arm: max(self.success(arm).values(), default=(0.0, 0.0)))

    def best_edit(self, arm: str) -> tuple[str, float]:
        """An arm and its strength that edits best, on the groups that choose."""
        edits = self.success(arm)
        return arm, max(edits, key=edits.get, default=math.nan)

    def rival(self, ours: str, theirs: str) -> list[Comparison]:
        """Judge our edits against the best of another method."""
        other = self.best_edit(theirs)
        return self.better((ours, self.best_eta(ours, other)), other)

    def better(self, ours: tuple[str, float], theirs: tuple[str, float]) -> list[Comparison]:
        """Judge an edit against another, on the groups that it was not chosen by."""
        name = ' minus '.join(f'{arm}, eta {eta:g}' for arm, eta in (ours, theirs))

        def compare(key: str) -> Comparison:
            values = minus(*(self.values(*edit, key, CHOOSE) for edit in (ours, theirs)))
            side = dict(above=0.0) if key == self.fidelity else dict(above=-FEWER, limits=DIFFERENCE)
            return Comparison(name, self.labels[key], values, unit='images', **side)

        return [compare(key) for key in self.labels]
