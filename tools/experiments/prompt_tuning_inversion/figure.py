"""Reconstruction against guidance, and the trade-off of edits."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from experiments.frame.claims import Found
from experiments.prompt_tuning_inversion.arms import EDIT_GUIDANCE, GUIDANCES
from experiments.prompt_tuning_inversion.trade_off import TradeOff
from mmplugins.utils.atomic import replacing

W = f'w{EDIT_GUIDANCE:g}'
PSNR = 'PSNR to the autoencoder, dB'


def mean_psnr(found: Found, arm: str) -> float:
    """Mean over all images."""
    return mean(value for seed in found.results['edit'][arm].values() for value in seed['psnr'])


def draw(found: Found, edits: TradeOff, path: Path) -> None:
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
        values = [mean_psnr(found, f'{name} w{guidance:g}') for guidance in guidances]
        left.plot(guidances, values, '--' if name.startswith('DDIM') else '-', marker='o', ms=4, label=name)
    left.axhline(mean_psnr(found, 'unconditional'), color='gray', lw=1, label='no guidance')
    left.set(xlabel='guidance', ylabel=PSNR, title='reconstruction')
    left.legend(fontsize=7)
    for panel, place, label in ((middle, 0, 'new color shown'), (right, 1, 'digit kept')):
        for name in ('PTI target', 'PTI null', 'DDIM null', 'null-text', 'negative-prompt', 'edit-friendly', 'SDEdit'):
            seen = edits.points(f'{name} {W}')
            seen = {eta: point for eta, point in seen.items() if point[2] < 60}  # else nothing was changed
            style = '-' if name.startswith('PTI') else '--'
            xs, ys = [point[2] for point in seen.values()], [point[place] for point in seen.values()]
            panel.plot(xs, ys, style, marker='o', ms=4, label=name)
            if name == 'PTI target':
                for eta, x, y in zip(seen, xs, ys, strict=True):
                    panel.annotate(f'{eta:g}', (x, y), fontsize=6, xytext=(3, 3), textcoords='offset points')
        panel.set(xlabel='PSNR of the shape, dB', ylabel=label, title=f'edits of the color, guidance {EDIT_GUIDANCE:g}')
        panel.legend(fontsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)
    pyplot.close(figure)
