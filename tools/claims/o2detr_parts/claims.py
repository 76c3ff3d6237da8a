"""The claims, from the numbers of the arms, in the format of the project's evidence files."""

import statistics
from collections.abc import Sequence

from .arms import MORE_ITERS
from .data import SIZE

NEAR = 0.05  # "within a few points" of AP50, fixed before any run


class Evidence:
    """Numbers of all arms, and claims about them."""

    def __init__(self, results: dict[str, dict[int, dict]]) -> None:
        self.results = results
        self.claims: list[dict] = []

    def get(self, arm: str, key: str) -> dict[int, float]:
        """A number of an arm, by seed."""
        return {seed: result[key] for seed, result in self.results[arm].items()}

    def rows(self, arms: Sequence[tuple[str, str]], keys: Sequence[tuple[str, str]]) -> list[tuple[str, str, dict]]:
        """Rows of a table: ``arms`` are (name shown, arm), ``keys`` (metric shown, key)."""
        return [(shown, metric, self.get(arm, key)) for metric, key in keys for shown, arm in arms]

    def add(self, claim: str, source: str, expected: str, rows: list[tuple], higher: list[tuple]) -> None:
        """Add a claim; ``higher`` are (better, worse, slack), values by seed: better must exceed worse - slack."""
        known = all(value is not None for *both, _ in higher for values in both for value in values.values())
        pairs = [(a[s], b[s] - slack) for a, b, slack in higher for s in a if s in b] if known else []
        arms = []
        for name, metric, values in rows:
            numbers = [value for value in values.values() if value is not None]
            mean = round(statistics.mean(numbers), 4) if numbers else None
            std = round(statistics.stdev(numbers), 4) if len(numbers) > 1 else None
            arms.append(dict(name=name, metric=metric, mean=mean, std=std, seeds=list(values)))
        holds = all(a > b for a, b in pairs) if known else None
        self.claims.append(dict(claim=claim, source=source, expected=expected, holds=holds, arms=arms))


def negative(values: dict[int, float | None]) -> dict[int, float | None]:
    """Values of which less is better, turned around."""
    return {seed: None if value is None else -value for seed, value in values.items()}


def make_claims(results: dict[str, dict[int, dict]], costs: dict[str, dict[str, float]]) -> list[dict]:
    """Return the claims.

    Args:
        results: Arm, seed, numbers of :func:`measure.test`.
        costs: ``'<kind>, D <dims>, <side>'`` to numbers of :func:`measure.layer_costs`.
    """
    e = Evidence(results)
    source = 'abstract; small experiment of ours'
    names = dict(dwsep='depthwise separable', deformable='deformable', dense='dense attention')
    fixed = {key: {metric: {0: value} for metric, value in numbers.items()} for key, numbers in costs.items()}
    rows, higher = [], []
    for metric, text in (('gflop', 'GFLOP of a layer'), ('mib', 'MiB kept for the backward pass')):
        for case in dict.fromkeys(key.split(', ', 1)[1] for key in costs):
            values = {kind: fixed[f'{kind}, {case}'][metric] for kind in names}
            rows += [(names[kind], f'{text}, {case}²', value) for kind, value in values.items()]
            pairs = (('deformable', 'dwsep'), ('dense', 'deformable'))
            higher += [(values[large], values[small], 0) for large, small in pairs]
    e.add(
        'Depthwise separable convolution in the place of attention reduces memory and computation of the encoder',
        source,
        'depthwise separable < deformable < dense attention with explicit weights, at every width and size',
        rows,
        higher,
    )
    ap = (('AP50', 'ap50'), ('AP75', 'ap75'))
    dwsep, exchange, deformable, none = (e.get(arm, 'ap50') for arm in ('dwsep', 'exchange', 'deformable', 'none'))
    e.add(
        'The convolutional encoder detects as well as the attention that it replaces',
        source,
        f'AP50 not more than {NEAR} below the deformable encoder, and above no encoder',
        e.rows(
            [
                ('depthwise separable', 'dwsep'),
                ('deformable encoder', 'deformable'),
                ('control: no encoder', 'none'),
            ],
            ap,
        ),
        [(dwsep, deformable, NEAR), (dwsep, none, 0)],
    )
    e.add(
        'Exchange between neighboring levels helps the convolutional encoder',
        'not in the paper; it was our default until this experiment',
        'higher AP50 than with the levels apart',
        e.rows([('levels exchange', 'exchange'), ('levels apart', 'dwsep')], ap),
        [(exchange, dwsep, 0)],
    )
    border = [negative(e.get(arm, 'angle_border')) for arm in ('dwsep', 'plain_l1')]
    count = next(iter(results['dwsep'].values()))['border_boxes']
    e.add(
        'A periodic angle in loss and matching helps where the range of angles ends',
        'not in the paper: our decision',
        'smaller error than plain L1 for boxes within 10° of 0° and 180°',
        e.rows(
            [('wrapped L1', 'dwsep'), ('plain L1', 'plain_l1')],
            [
                (f'mean angle error in degrees, {count} boxes at the border', 'angle_border'),
                ('mean angle error in degrees, all boxes', 'angle'),
                ('share of boxes with a detection at their center', 'found'),
                *ap,
            ],
        ),
        [(border[0], border[1], 0)],
    )
    e.add(
        'Fine-tuning a head on O²DETR in a cascade improves it',
        source,
        f'{MORE_ITERS} iterations of the cascade on the frozen base: higher AP75 than as many more of the base',
        e.rows(
            [
                ('cascade', 'cascade'),
                (f'control: base, {MORE_ITERS} more iterations', 'longer'),
                ('base', 'dwsep'),
            ],
            ap[::-1],
        ),
        [(e.get('cascade', 'ap75'), e.get('longer', 'ap75'), 0)],
    )
    e.add(
        'O²DETR is better than RetinaNet',
        source,
        f'higher AP50 than Rotated RetinaNet, same backbone and iterations, {SIZE}x{SIZE} pixels',
        e.rows([('O²DETR', 'dwsep'), ('Rotated RetinaNet', 'retinanet')], (*ap, ('million parameters', 'parameters'))),
        [(dwsep, e.get('retinanet', 'ap50'), 0)],
    )
    return e.claims
