"""What the rows of the arms say about each claim, and the figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

import matplotlib

Rows = dict[str, dict[str, list[dict]]]
SHOTS = ('R-MAML, 1 shot', 'ITS-MAML, 2 shots', 'ITS-MAML, 3 shots', 'ITS-MAML, 5 shots')
ITS, PLAIN, MAML, MAML5, LONGER, LONGEST = (
    'ITS-MAML, 5 shots', 'R-MAML, 1 shot', 'MAML, 1 shot', 'MAML, 5 shots', 'R-MAML, 1 shot, 1.35 times the updates',
    'R-MAML, 1 shot, twice the updates',
)  # fmt: skip
METRICS = {
    'clean': 'clean accuracy, %',
    'pgd10': 'accuracy under PGD-10, %',
    'id_pca90': 'dimension (PCA, 90 %) of clean features, one list of images',
    'id_noise': 'dimension (PCA, 90 %) of what the attack adds, mean over tasks',
    'seconds': 'processor seconds of training',
}
FEW_POINTS = 3.0  # how much robustness may be lost, in points: "little" in the abstract


def arm(name: str, metric: str, values: Sequence[float], seeds: Sequence[int]) -> dict:
    """One line of the table."""
    spread = stdev(values) if len(values) > 1 else None
    return dict(
        name=name, metric=metric, mean=round(mean(values), 4), std=spread and round(spread, 4), seeds=list(seeds)
    )


def make_claims(rows: Rows) -> list[dict]:
    """Return the claims with arms and answers."""
    seeds = [row['seed'] for row in rows['omniglot'][PLAIN]]

    def values(data: str, name: str, metric: str) -> list[float]:
        return [row[metric] for row in rows[data][name]]

    def difference(data: str, one: str, two: str, metric: str) -> list[float]:
        return [a - b for a, b in zip(values(data, one, metric), values(data, two, metric), strict=True)]

    def entry(
        claim: str,
        source: str,
        expected: str,
        arms: list[tuple[str, str, str]],
        pairs: list[tuple[str, str, str, str]],
        right: Callable[[float], bool] = lambda value: value > 0,
    ) -> dict:
        """``pairs`` are judged: one minus two must be right in every seed, or at least in the mean (undecided)."""
        lines = [arm(f'{data}: {name}', METRICS[m], values(data, name, m), seeds) for data, name, m in arms]
        found = [difference(*pair) for pair in pairs]
        lines += [
            arm(f'{data}: {one} minus {two}', f'{METRICS[m]}, paired difference', each, seeds)
            for (data, one, two, m), each in zip(pairs, found, strict=True)
        ]
        if all(right(value) for each in found for value in each):
            holds = True
        else:
            holds = None if all(right(mean(each)) for each in found) else False
        return dict(claim=claim, source=source, expected=expected, holds=holds, arms=lines)

    def over(metrics: Sequence[str], names: Sequence[str], data: str = 'omniglot') -> list[tuple[str, str, str]]:
        return [(data, name, metric) for metric in metrics for name in names]

    both = ('omniglot', 'digits')
    return [
        entry(
            'The adversarial term makes robust, before anything else',
            'sanity',
            'accuracy under attack of R-MAML above MAML, 1 and 5 training shots, both data sets',
            [line for data in both for line in over(['pgd10'], [MAML, PLAIN, MAML5, ITS], data)],
            [(data, *pair, 'pgd10') for data in both for pair in ((PLAIN, MAML), (ITS, MAML5))],
        ),
        entry(
            'The adversarial term lowers the intrinsic dimension of clean features',
            'abstract',
            'dimension of R-MAML below MAML, 1 and 5 training shots, both data sets',
            [line for data in both for line in over(['id_pca90'], [MAML, PLAIN, MAML5, ITS], data)],
            [(data, *pair, 'id_pca90') for data in both for pair in ((PLAIN, MAML), (ITS, MAML5))],
            lambda value: value < 0,
        ),
        entry(
            'More training shots raise clean accuracy',
            'abstract',
            'clean accuracy of 5 shots above 1 shot with the adversarial term, both data sets',
            [*over(['clean'], SHOTS), *over(['clean'], [PLAIN, ITS], 'digits')],
            [(data, ITS, PLAIN, 'clean') for data in both],
        ),
        entry(
            'More training shots lose little robustness',
            'abstract',
            f'accuracy under attack of 5 shots not more than {FEW_POINTS:g} points below 1 shot, both data sets',
            [*over(['pgd10'], SHOTS), *over(['pgd10'], [PLAIN, ITS], 'digits')],
            [(data, ITS, PLAIN, 'pgd10') for data in both],
            lambda value: value > -FEW_POINTS,
        ),
        entry(
            'More training shots raise the intrinsic dimension of clean features',
            'abstract',
            'dimension of 5 shots above 1 shot with the adversarial term, both data sets',
            [*over(['id_pca90'], SHOTS), *over(['id_pca90'], [PLAIN, ITS], 'digits')],
            [(data, ITS, PLAIN, 'id_pca90') for data in both],
        ),
        entry(
            'More training shots raise the intrinsic dimension of the adversarial noise',
            'public reviews',
            'dimension of 5 shots above 1 shot with the adversarial term, both data sets',
            [*over(['id_noise'], SHOTS), *over(['id_noise'], [PLAIN, ITS], 'digits')],
            [(data, ITS, PLAIN, 'id_noise') for data in both],
        ),
        entry(
            'It is not a matter of cost (ours to ask)',
            'control',
            'both accuracies of 5 shots above 1 shot with as many processor seconds of training, Omniglot',
            over(['clean', 'pgd10', 'seconds'], [PLAIN, LONGER, LONGEST, ITS]),
            [('omniglot', ITS, LONGER, metric) for metric in ('clean', 'pgd10')],
        ),
        entry(
            'The gain of more shots is larger with the adversarial term than without (ours to ask)',
            'control',
            'clean accuracy: 5 shots minus 1 shot, R-MAML above MAML, both data sets',
            [line for data in both for line in over(['clean'], [MAML, MAML5, PLAIN, ITS], data)],
            [],
        )
        | specific(rows, seeds, both),
        sensitivity(rows, seeds),
    ]


def specific(rows: Rows, seeds: Sequence[int], both: Sequence[str]) -> dict:
    """Whether the gain in clean accuracy is larger with the adversarial term: the answer and its arms."""
    lines, found = [], []
    for data in both:
        gains = []
        for many, one in ((ITS, PLAIN), (MAML5, MAML)):
            pairs = zip(rows[data][many], rows[data][one], strict=True)
            gains.append([a['clean'] - b['clean'] for a, b in pairs])
            lines.append(arm(f'{data}: {many} minus {one}', 'clean accuracy, %, paired difference', gains[-1], seeds))
        found.append([a - b for a, b in zip(*gains, strict=True)])
        lines.append(arm(f'{data}: difference of the two', 'clean accuracy, %', found[-1], seeds))
    return dict(holds=verdict(found), arms=lines)


def sensitivity(rows: Rows, seeds: Sequence[int]) -> dict:
    """Claim on inner steps: the range over 1, 2 and 5 steps is smaller with 5 shots."""
    lines, found = [], []
    for metric in ('clean', 'pgd10'):
        ranges = []
        for name in (PLAIN, ITS):
            by_steps = {
                steps: [row[metric] for row in rows['omniglot'][name + suffix]]
                for steps, suffix in ((1, ', 1 step'), (2, ''), (5, ', 5 steps'))
            }
            lines += [arm(f'omniglot: {name}, steps {n}', METRICS[metric], v, seeds) for n, v in by_steps.items()]
            ranges.append([max(each) - min(each) for each in zip(*by_steps.values(), strict=True)])
            lines.append(arm(f'omniglot: {name}', f'{METRICS[metric]}, range over 1, 2, 5 steps', ranges[-1], seeds))
        found.append([plain - its for plain, its in zip(*ranges, strict=True)])
    return dict(
        claim='More training shots make meta-training less sensitive to the number of inner steps',
        source='abstract',
        expected='range of both accuracies over 1, 2 and 5 steps in training smaller with 5 shots than 1, Omniglot',
        holds=verdict(found),
        arms=lines,
    )


def verdict(found: Sequence[Sequence[float]]) -> bool | None:
    """True if all differences are above 0, None if only the means are, else False."""
    if all(value > 0 for each in found for value in each):
        return True
    return None if all(mean(each) > 0 for each in found) else False


def draw(rows: Rows, path: Path) -> None:
    """Accuracy and dimension over shots, clean against robust, accuracy over inner steps; every seed a dot."""
    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 5, figsize=(19, 3.6), layout='constrained')
    found = rows['omniglot']

    def line(panel, names: Sequence[str], xs: Sequence[float], metric: str, **kwargs) -> None:
        means = [mean(row[metric] for row in found[name]) for name in names]
        (drawn,) = panel.plot(xs, means, **kwargs)
        for x, name in zip(xs, names, strict=True):
            panel.scatter([x] * len(found[name]), [row[metric] for row in found[name]], s=10, color=drawn.get_color())

    for panel, metrics, label in (
        (panels[0], dict(clean='clean', pgd10='PGD-10'), 'accuracy, %'),
        (panels[1], dict(id_pca90='clean features', id_noise='noise, mean over tasks'), 'intrinsic dimension'),
    ):
        for metric, name in metrics.items():
            line(panel, SHOTS, (1, 2, 3, 5), metric, label=f'{name}, λ = 1')
            line(panel, (MAML, MAML5), (1, 5), metric, label=f'{name}, λ = 0', linestyle='--')
        panel.set(xlabel='training shots', ylabel=label, title='Omniglot, test with 1 shot')
    for panel, data in ((panels[2], 'omniglot'), (panels[3], 'digits')):
        for name, members in rows[data].items():
            if 'step' not in name:
                panel.scatter([r['clean'] for r in members], [r['pgd10'] for r in members], s=18, label=name)
        panel.set(xlabel='clean, %', ylabel='PGD-10, %', title=data)
    for name in (PLAIN, ITS):
        names = [f'{name}, 1 step', name, f'{name}, 5 steps']
        line(panels[4], names, (1, 2, 5), 'clean', label=f'clean, {name}')
        line(panels[4], names, (1, 2, 5), 'pgd10', label=f'PGD-10, {name}', linestyle='--')
    panels[4].set(xlabel='inner steps in training', ylabel='accuracy, %', title='Omniglot')
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend(fontsize=6)
    figure.savefig(path, dpi=72)
    pyplot.close(figure)
