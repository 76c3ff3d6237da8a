"""Claims: what is expected, what was found, and what follows, as Python and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev

from experiments.frame.tasks import Job
from experiments.frame.verdict import UNDECIDED, Comparison, verdict_of

Values = dict[int, float]


@dataclass(frozen=True)
class Row:
    """A number that is shown beside the judged ones: an arm and a metric, one value a seed."""

    name: str
    metric: str
    values: Mapping[int, float]


@dataclass(frozen=True)
class Claim:
    """A sentence that a run can prove wrong.

    Attributes:
        text: The claim.
        source: Where it is made: ``'abstract'``, ``'table 3'``, ``'ours'``.
        expected: The direction in words, written down before the run.
        judged: What decides, see `verdict_of`.
        shown: Arms that a reader wants to see.
    """

    text: str
    source: str
    expected: str
    judged: Sequence[Comparison]
    shown: Sequence[Row] = field(default=())


class Found:
    """Results of all jobs, by task, arm and seed."""

    def __init__(self, results: Mapping[Job, dict]) -> None:
        self.results: dict[str, dict[str, dict[int, dict]]] = {}
        for job, found in results.items():
            self.results.setdefault(job.task, {}).setdefault(job.arm, {})[job.seed] = found

    def arms(self, task: str) -> list[str]:
        """Names of the arms of a task that were run."""
        return list(self.results.get(task, ()))

    def first(self, task: str, arm: str) -> dict:
        """Result of the first seed."""
        return next(iter(self.results[task][arm].values()))

    def values(self, task: str, arm: str, key: str) -> Values:
        """A number of an arm, by seed; ``'a.b'`` looks into a dictionary.

        Seeds that have None or no number (nan) are left out; an arm that was not run has no values.
        """
        found = {}
        for seed, value in self.results.get(task, {}).get(arm, {}).items():
            for part in key.split('.'):
                value = value[part]
            if value is not None and math.isfinite(value):
                found[seed] = value
        return found

    def row(self, task: str, arm: str, key: str, metric: str, name: str | None = None) -> Row:
        """A number of an arm, to be shown."""
        return Row(name or arm, metric, self.values(task, arm, key))

    def rows(self, task: str, key: str, metric: str, arms: Sequence[str] | None = None) -> list[Row]:
        """A number of several arms, default all."""
        return [self.row(task, arm, key, metric) for arm in arms or self.arms(task)]

    def time_over(self, task: str, base: str, arms: Sequence[str] | None = None, key: str = 'cpu_seconds') -> list[Row]:
        """Processor time of arms, default all, over that of another, of the seeds that one machine ran of both."""
        jobs, rows = self.results.get(task, {}), []
        for arm in arms or jobs:
            pairs = {seed: (job, jobs.get(base, {}).get(seed)) for seed, job in jobs.get(arm, {}).items()}
            values = {
                seed: ours[key] / theirs[key]
                for seed, (ours, theirs) in pairs.items()
                if theirs and ours.get('machine') == theirs.get('machine')
            }
            rows.append(Row(arm, f'processor time over that of {base}, on the same machine', values))
        return [row for row in rows if row.name != base and row.values]

    def difference(self, task: str, ours: str, theirs: str, key: str) -> Values:
        """Differences of two arms, paired over the seeds that both have."""
        return minus(self.values(task, ours, key), self.values(task, theirs, key))

    def compare(self, task: str, ours: str, theirs: str, key: str, metric: str, **sides: float) -> Comparison:
        """Judge the paired difference of two arms, by default expected above 0; see `Comparison`."""
        values = self.difference(task, ours, theirs, key)
        return Comparison(f'{ours} minus {theirs}', metric, values, **(sides or dict(above=0.0)))

    def every(self) -> list[dict]:
        """Results of all jobs."""
        return [found for arms in self.results.values() for seeds in arms.values() for found in seeds.values()]

    def seconds(self) -> float:
        """Wall-clock seconds of all jobs together."""
        return sum(found['seconds'] for found in self.every())

    def origin(self) -> dict[str, str]:
        """Dates and machines of the jobs, which several runs may have done; nothing if none of them says it."""
        known = [found for found in self.every() if 'date' in found]  # older results do not
        if not known:
            return {}
        dates, machines = (sorted({found[key] for found in known}) for key in ('date', 'machine'))
        return dict(date=' to '.join(dict.fromkeys((dates[0], dates[-1]))), machine='; '.join(machines))

    def cost(self) -> dict[str, dict[str, float]]:
        """Processor minutes of each arm, mean over seeds."""
        return {
            task: {arm: round(mean(r['cpu_seconds'] for r in seeds.values()) / 60, 2) for arm, seeds in arms.items()}
            for task, arms in self.results.items()
        }


def minus(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Values:
    """Differences over the seeds that both have."""
    return {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}


def rounded(value: float | None) -> float | None:
    """Six digits."""
    return None if value is None else float(f'{value:.6g}')


def rounded_values(values: Mapping[int, float]) -> dict[str, float]:
    """Values with six digits, by seed; JSON has texts for keys."""
    return {str(seed): rounded(value) for seed, value in values.items()}


def is_extended(earlier: Mapping[str, float], values: Mapping[str, float]) -> bool:
    """Whether values are those of an earlier record and more, by seed as text.

    Some of them may have been found anew: an arm from whose weights another starts has other last digits on another
    machine. If all differ it is another experiment, as of other code, and the earlier one was no look at it. Equal is
    what differs in its last digit, for the values of a record are rounded.
    """
    return earlier.keys() <= values.keys() and any(
        math.isclose(value, values[seed], rel_tol=1e-4) for seed, value in earlier.items()
    )


def after_looks(claim: Claim, earlier: Sequence[dict]) -> Claim:
    """Return a claim whose comparisons know at which numbers of values they were undecided before.

    Args:
        claim: As it follows from what was found.
        earlier: The entries that `to_json` made of an earlier run.
    """
    judged = {(one['claim'], each['name'], each['metric']): each for one in earlier for each in one['judged']}

    def looked(comparison: Comparison) -> Comparison:
        entry, values = judged.get((claim.text, comparison.name, comparison.metric)), rounded_values(comparison.values)
        if entry is None or not is_extended(entry['values'], values):
            return comparison
        looks = [*entry.get('looks', ())]
        if entry['verdict'] == UNDECIDED and 1 < entry['n'] < len(values):
            looks.append(entry['n'])
        return replace(comparison, looks=tuple(looks))

    return replace(claim, judged=[looked(comparison) for comparison in claim.judged])


def to_json(claim: Claim) -> dict:
    """Return a claim as its entry in ``claims.json``."""
    judged = []
    for comparison in claim.judged:
        interval = comparison.bounds()
        judged.append(
            dict(
                name=comparison.name,
                metric=comparison.metric,
                expected=f'{"below" if comparison.above is None else "above"} {comparison.bound:g}',
                mean=rounded(comparison.mean),
                interval=interval and [rounded(end) for end in interval],
                exact=comparison.exact,
                unit=comparison.unit,
                verdict=comparison.verdict(),
                needed=comparison.needed(),
                n=len(comparison.values),
                looks=list(comparison.looks),
                values=rounded_values(comparison.values),
            )
        )
    shown = []
    for row in claim.shown:
        numbers = list(row.values.values())
        std = rounded(stdev(numbers)) if len(numbers) > 1 else None
        summary = dict(mean=rounded(mean(numbers)) if numbers else None, std=std, values=rounded_values(row.values))
        shown.append(dict(name=row.name, metric=row.metric, **summary))
    return dict(
        claim=claim.text,
        source=claim.source,
        expected=claim.expected,
        verdict=verdict_of(claim.judged),
        judged=judged,
        arms=shown,
    )
