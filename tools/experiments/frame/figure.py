"""One figure for all experiments: each comparison as its values, its mean with the 95 % interval, and its bound."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from experiments.frame.verdict import FAILS, HOLDS, UNDECIDED
from mmplugins.utils.atomic import replacing

COLORS = {HOLDS: 'tab:green', FAILS: 'tab:red', UNDECIDED: 'tab:gray'}
MOST_ROWS = 10  # of a claim; the others are in the tables


def draw_claims(claims: Sequence[dict], path: Path) -> None:
    """Draw the entries of ``claims.json``, a panel a claim.

    Args:
        claims: As `claims.to_json` returns them.
        path: Of the picture.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    judged = [claim['judged'][:MOST_ROWS] for claim in claims]
    heights = [len(entries) + 1.6 for entries in judged]
    figure, panels = pyplot.subplots(
        len(claims), 1, figsize=(9, 0.34 * sum(heights)), height_ratios=heights, layout='constrained', squeeze=False
    )
    for claim, entries, panel in zip(claims, judged, panels[:, 0], strict=True):
        for place, entry in enumerate(reversed(entries)):
            color = COLORS[entry['verdict']]
            panel.plot(
                list(entry['values'].values()), [place] * len(entry['values']), 'o', color=color, ms=3, alpha=0.5
            )
            if entry['mean'] is not None:
                panel.plot(entry['mean'], place, 'D', color=color, ms=5)
            if entry['interval']:
                panel.hlines(place, *entry['interval'], color=color, lw=2)
            panel.vlines(float(entry['expected'].split()[1]), place - 0.4, place + 0.4, color='black', lw=1)
        names = [textwrap.shorten(f'{entry["name"]}: {entry["metric"]}', 90) for entry in reversed(entries)]
        panel.set_yticks(range(len(names)), names, fontsize=6)
        panel.set_ylim(-0.7, len(names) - 0.3)
        panel.tick_params(axis='x', labelsize=6)
        panel.set_title(f'{textwrap.shorten(claim["claim"], 110)}: {claim["verdict"]}', fontsize=8, loc='left')
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=72)
    pyplot.close(figure)
