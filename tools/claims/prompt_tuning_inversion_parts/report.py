"""The claims and the figure, from what the arms measured."""

from __future__ import annotations

import statistics
from pathlib import Path

from .arms import EDIT_GUIDANCE, ETAS, GUIDANCES, INITS, STRENGTHS

W = f'w{EDIT_GUIDANCE:g}'
PSNR = 'PSNR to the autoencoder, dB'
Results = dict[str, dict[int, dict]]


def row(name: str, metric: str, groups: list[float]) -> dict:
    """One arm: mean and standard deviation over groups of images."""
    std = round(statistics.stdev(groups), 4) if len(groups) > 1 else None
    return dict(
        name=name, metric=metric, mean=round(statistics.mean(groups), 4), std=std, seeds=list(range(len(groups)))
    )


def psnr_row(results: Results, arm: str) -> dict:
    """Mean PSNR of an arm."""
    return row(arm, PSNR, [statistics.mean(found['psnr']) for found in results[arm].values()])


def all_images(results: Results, arm: str) -> list[float]:
    """PSNR of each image."""
    return [value for found in results[arm].values() for value in found['psnr']]


def mean_psnr(results: Results, arm: str) -> float:
    """Mean over all images."""
    return statistics.mean(all_images(results, arm))


def curve(results: Results, arm: str) -> dict[float, dict[str, list[float]]]:
    """For each strength the mean of each group."""
    first = next(iter(results[arm].values()))['edits']
    return {
        float(eta): {
            key: [statistics.mean(map(float, found['edits'][eta][key])) for found in results[arm].values()]
            for key in ('color', 'digit', 'shape')
        }
        for eta in first
    }


def points(results: Results, arm: str) -> dict[float, tuple[float, float, float]]:
    """For each strength: color accuracy, share of digits kept, PSNR of the shape."""
    return {
        eta: tuple(statistics.mean(v[key]) for key in ('color', 'digit', 'shape'))
        for eta, v in curve(results, arm).items()
    }


def edit_rows(results: Results, arm: str, etas: tuple[float, ...]) -> list[dict]:
    """Three rows a strength."""
    labels = dict(color='new color shown', digit='digit kept', shape='PSNR of the shape, dB')
    found = curve(results, arm)
    return [row(f'{arm}, eta {eta:g}', labels[key], found[eta][key]) for eta in etas for key in labels]


def dominated(ours: dict, other: dict, least: float = 0.5) -> dict[float, float | None]:
    """A strength of ours that is not worse in color and digit and nearer in shape, for each of a baseline's points.

    Points that show the new color in fewer than ``least`` of the images are left out; None where there is no strength.
    """
    found = {}
    for eta, (color, digit, shape) in other.items():
        if color >= least:
            better = [e for e, point in ours.items() if point[0] >= color and point[1] >= digit and point[2] > shape]
            found[eta] = better[0] if better else None
    return found


def make_claims(results: Results) -> list[dict]:
    """All claims with their verdicts."""
    guided = [guidance for guidance in GUIDANCES if guidance > 1]
    free = mean_psnr(results, 'unconditional')
    ddim = [mean_psnr(results, f'DDIM target w{guidance:g}') for guidance in GUIDANCES]
    gains = [
        ours - theirs
        for guidance in guided
        for ours, theirs in zip(
            all_images(results, f'PTI target w{guidance:g}'),
            all_images(results, f'DDIM target w{guidance:g}'),
            strict=True,
        )
    ]  # fmt: skip
    high = mean_psnr(results, f'PTI target w{guided[-1]:g}')
    ours, null = points(results, f'PTI target {W}'), points(results, f'PTI null {W}')
    colors, shapes = ([point[place] for point in ours.values()] for place in (0, 2))
    rising = all(a <= b + 0.05 for a, b in zip(colors, colors[1:], strict=False)) and colors[-1] > colors[0]
    falling = all(a > b for a, b in zip(shapes, shapes[1:], strict=False))
    plain = ours[1.0]  # a strength of 1 does not see what was tuned: DDIM inversion and guided sampling of the prompt
    against_plain = dominated({e: p for e, p in ours.items() if e < 1}, {1.0: plain}, 0)
    against_sdedit = dominated(ours, points(results, f'SDEdit {W}'))
    updates = [mean_psnr(results, f'PTI target {W} N{n}') for n in (1, 3)] + [mean_psnr(results, f'PTI target {W}')]
    inits = {init: [mean_psnr(results, f'PTI {init} w{guidance:g}') for guidance in guided] for init in INITS}
    ordered = all(n >= s >= t for n, s, t in zip(inits['null'], inits['source'], inits['target'], strict=True))
    apart = max(abs(ours[eta][0] - null[eta][0]) for eta in ETAS if eta >= 0.5)

    def claim(text: str, source: str, expected: str, holds: bool, rows: list[dict]) -> dict:
        return dict(claim=text, source=source, expected=expected, holds=bool(holds), arms=rows)

    def rows(names: list[str]) -> list[dict]:
        return [psnr_row(results, name) for name in names]

    return [
        claim(
            'Guided sampling after DDIM inversion reconstructs worse the stronger the guidance',
            'abstract, by a reading note',
            'PSNR falls from each guidance to the next, and all are below sampling without prompt and guidance',
            all(a > b for a, b in zip([free, *ddim], ddim, strict=False)),
            rows(['unconditional', *(f'DDIM {init} w{g:g}' for init in ('target', 'source') for g in GUIDANCES)]),
        ),
        claim(
            'Prompt tuning inversion reconstructs better than guided sampling without tuning',
            'abstract',
            'for every image and every guidance above 1',
            min(gains) > 0,
            [*rows([f'PTI target w{g:g}' for g in GUIDANCES]), row('smallest gain of an image', 'dB', [min(gains)])],
        ),
        claim(
            'It stays near what sampling without guidance reconstructs',
            'abstract',
            f'at most 3 dB below, at guidance {guided[-1]:g}',
            high >= free - 3,
            rows(['unconditional', f'PTI target w{guided[-1]:g}']),
        ),
        claim(
            'Eta trades fidelity for editability',
            'abstract, figure 2',
            'with rising eta the share of new colors rises (within 0.05) and the PSNR of the shape falls',
            rising and falling,
            edit_rows(results, f'PTI target {W}', ETAS),
        ),
        claim(
            'Some eta edits better than guided sampling of the prompt from the inverted noise (eta 1)',
            'abstract: trade-off between editability and fidelity',
            'as many new colors, as many digits kept, and a shape that is nearer',
            all(value is not None for value in against_plain.values()),
            edit_rows(results, f'PTI target {W}', tuple(e for e in (against_plain[1.0], 1.0) if e is not None)),
        ),
        claim(
            'For every strength of SDEdit that shows the new color in half of the images, some eta edits better',
            'abstract: trade-off between editability and fidelity',
            'as many new colors, as many digits kept, and a shape that is nearer',
            bool(against_sdedit) and all(value is not None for value in against_sdedit.values()),
            edit_rows(results, f'SDEdit {W}', STRENGTHS),
        ),
        claim(
            'More updates a step reconstruct better',
            'ours',
            'PSNR rises from 1 to 3 to 10 updates',
            updates[0] < updates[1] < updates[2],
            rows([f'PTI target {W} N1', f'PTI target {W} N3', f'PTI target {W}']),
        ),
        claim(
            'The empty start reconstructs best, that of the image next, that of the edit last',
            'ours',
            'null ≥ source ≥ target at every guidance above 1',
            ordered,
            rows([f'PTI {init} w{g:g}' for g in guided for init in INITS]),
        ),
        claim(
            'The edits of the empty start are close to those of the prompt of the edit',
            'ours',
            'shares of new colors differ by at most 0.1 from eta 0.5 on',
            apart <= 0.1,
            edit_rows(results, f'PTI null {W}', ETAS),
        ),
        claim(
            'Null-text inversion, which is told what is in the image, reconstructs better than guided sampling too',
            'arXiv 2211.09794; a check of what both share',
            'for every image and every guidance above 1, against the prompt of the image',
            all(
                a > b
                for g in guided
                for a, b in zip(
                    all_images(results, f'null-text w{g:g}'), all_images(results, f'DDIM source w{g:g}'), strict=True
                )
            ),
            [*rows([f'null-text w{g:g}' for g in guided]), *edit_rows(results, f'null-text {W}', (0.5, 1.0))],
        ),
    ]  # fmt: skip


def draw(results: Results, path: Path) -> None:
    """Reconstruction against guidance, and the trade-off of edits."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.6), layout='constrained')
    guided = [guidance for guidance in GUIDANCES if guidance > 1]
    for name, guidances in (
        ('DDIM target', GUIDANCES), ('DDIM source', GUIDANCES), ('PTI target', GUIDANCES), ('PTI source', guided),
        ('PTI null', guided), ('null-text', guided),
    ):  # fmt: skip
        values = [mean_psnr(results, f'{name} w{guidance:g}') for guidance in guidances]
        left.plot(guidances, values, '--' if name.startswith('DDIM') else '-', marker='o', ms=4, label=name)
    left.axhline(mean_psnr(results, 'unconditional'), color='gray', lw=1, label='no guidance')
    left.set(xlabel='guidance', ylabel=PSNR, title='reconstruction')
    left.legend(fontsize=7)
    for panel, place, label in ((middle, 0, 'new color shown'), (right, 1, 'digit kept')):
        for name in ('PTI target', 'PTI null', 'null-text', 'DDIM source', 'SDEdit'):
            found = points(results, f'{name} {W}')
            found = {eta: point for eta, point in found.items() if point[2] < 60}  # nothing was changed
            style = '-' if name.startswith('PTI') else '--'
            xs, ys = [point[2] for point in found.values()], [point[place] for point in found.values()]
            panel.plot(xs, ys, style, marker='o', ms=4, label=name)
            if name == 'PTI target':
                for eta, x, y in zip(found, xs, ys, strict=True):
                    panel.annotate(f'{eta:g}', (x, y), fontsize=6, xytext=(3, 3), textcoords='offset points')
        panel.set(xlabel='PSNR of the shape, dB', ylabel=label, title=f'edits of the color, guidance {EDIT_GUIDANCE:g}')
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
