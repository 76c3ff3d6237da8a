"""Rows of results as a table, a CSV file and plots."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmplugins.utils.atomic import replacing, write_text

KEYS = ('config', 'method', 'train_shots', 'test_shots', 'reg_weight', 'inner_steps', 'updates', 'eps', 'tasks')
NOT_COLUMNS = ('spectrum', 'seed', 'checkpoint', 'id_images', 'score')
NAMES = {
    'train_shots': 'K̃', 'test_shots': 'K', 'reg_weight': 'λ', 'inner_steps': 'steps', 'eps': 'ε',
    'id_pca90': 'ID, clean', 'id_noise': 'ID, noise', 'id_task': 'ID, task', 'seconds': 'training, s',
    'test_seconds': 'test, s',
}  # fmt: skip


def attack_names(rows: Sequence[dict]) -> list[str]:
    """Return the names of the attacks in the rows, in their order."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key.removesuffix('_ci') for key in keys if key.endswith('_ci') and key != 'clean_ci']


def grouped(rows: Sequence[dict]) -> list[tuple[dict, list[dict]]]:
    """Return rows that differ by seed or checkpoint only, under what they share."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        shared = tuple((key, row[key]) for key in KEYS if key in row)
        groups[shared, tuple(attack_names([row]))].append(row)
    return [(dict(shared), members) for (shared, _), members in groups.items()]


def summary(rows: Sequence[dict]) -> list[dict]:
    """One dict a group: what its rows share, means of numbers, and ``±`` beside accuracies.

    That is the standard deviation over seeds if there are several, else the 95 % interval over tasks.
    """
    found = []
    for shared, members in grouped(rows):
        line: dict[str, Any] = dict(shared, runs=len(members))
        numbers = [key for key, value in members[0].items() if isinstance(value, (int, float)) and key not in KEYS]
        for key in numbers:
            if key in NOT_COLUMNS or key.endswith('_ci'):
                continue
            values = [member[key] for member in members if key in member]
            line[key] = mean(values)
            if f'{key}_ci' in members[0]:
                line[f'{key} ±'] = stdev(values) if len(values) > 1 else members[0][f'{key}_ci']
        found.append(line)
    return found


def markdown(rows: Sequence[dict]) -> str:
    """Return the table, accuracies in percent."""
    lines = summary(rows)
    columns = [key for key in dict.fromkeys(key for line in lines for key in line) if not key.endswith('±')]

    def cell(line: dict, key: str) -> str:
        value = line.get(key, '')
        if not isinstance(value, float):
            return str(value)
        text = f'{value:g}' if key in KEYS else f'{value:.1f}'
        return f'{text} ± {line[f"{key} ±"]:.1f}' if f'{key} ±' in line else text

    table = [[NAMES.get(key, key) for key in columns], ['---'] * len(columns)]
    table += [[cell(line, key) for key in columns] for line in lines]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in table)


def write(rows: Sequence[dict], out: Path) -> None:
    """Write ``rows.json``, ``table.md``, ``table.csv`` and the plots to a folder."""
    if not rows:
        raise ValueError('there are no results to report')
    write_text(out / 'rows.json', json.dumps(list(rows), indent=1) + '\n')
    write_text(out / 'table.md', markdown(rows) + '\n')
    lines = summary(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)))
    writer.writeheader()
    writer.writerows(lines)
    write_text(out / 'table.csv', text.getvalue())
    plot(rows, out / 'plots.png')


def plot(rows: Sequence[dict], path: Path) -> None:
    """Draw accuracy and dimension over training shots, clean against robust, accuracy over steps, spectra."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    lines, attacks = summary(rows), attack_names(rows)
    robust = attacks[0] if attacks else 'clean'
    figure, panels = pyplot.subplots(1, 5, figsize=(20, 3.8), layout='constrained')
    for label, members in curves(lines, 'train_shots').items():
        draw(panels[0], members, 'train_shots', 'clean', f'clean {label}', '-o')
        if robust != 'clean':
            draw(panels[0], members, 'train_shots', robust, f'{robust} {label}', '--s')
        draw(panels[1], members, 'train_shots', 'id_pca90', label or 'clean features', '-o')
    for line, label in zip(lines, labels(lines), strict=True):
        if robust in line:
            panels[2].errorbar(
                line['clean'], line[robust], xerr=line['clean ±'], yerr=line[f'{robust} ±'], fmt='o', capsize=2,
                label=label,
            )  # fmt: skip
    for label, members in curves(lines, 'inner_steps').items():
        draw(panels[3], members, 'inner_steps', 'clean', f'clean {label}', '-o')
        if robust != 'clean':
            draw(panels[3], members, 'inner_steps', robust, f'{robust} {label}', '--s')
    for (_, members), label in zip(grouped(rows), labels(lines), strict=True):
        panels[4].plot(members[0].get('spectrum', []), label=label)
    titles = (
        ('training shots', 'accuracy, %'), ('training shots', 'ID of clean features'), ('clean, %', f'{robust}, %'),
        ('inner steps in training', 'accuracy, %'), ('principal components', 'share of variance'),
    )  # fmt: skip
    for panel, (x, y) in zip(panels, titles, strict=True):
        panel.set(xlabel=x, ylabel=y)
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=6)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)
    pyplot.close(figure)


def labels(lines: Sequence[dict], *without: str) -> list[str]:
    """Return for each line what tells it from the others, leaving some keys out."""
    keys = [key for key in KEYS if key not in without and len({line.get(key) for line in lines}) > 1]

    def text(key: str, value: Any) -> str:
        return value.split(' (plain')[0] if isinstance(value, str) else f'{NAMES.get(key, key)}={value:g}'

    return [', '.join(text(key, line[key]) for key in keys if key in line) for line in lines]


def curves(lines: Sequence[dict], x: str) -> dict[str, list[dict]]:
    """Return under their label the lines that differ in ``x`` alone, and in the name of the method, which follows."""
    found: dict[str, list[dict]] = defaultdict(list)
    for line, label in zip(lines, labels(lines, x, 'method'), strict=True):
        found[label].append(line)
    return found


def draw(panel: Any, lines: Sequence[dict], x: str, y: str, label: str, style: str) -> None:
    """Draw ``y`` over ``x`` for the lines that have both."""
    points = sorted((line[x], line[y], line.get(f'{y} ±', 0)) for line in lines if x in line and y in line)
    if points:
        xs, ys, errors = zip(*points, strict=True)
        panel.errorbar(xs, ys, yerr=errors, fmt=style, capsize=2, label=label)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``report``."""
    parser.add_argument('folder', type=Path, nargs='+', help='folders that test or sweep wrote')
    parser.add_argument('--out', type=Path, help='default: the first folder')


def run(args: argparse.Namespace) -> None:
    """Join the rows of several folders."""
    rows = []
    for folder in args.folder:
        files = [folder / 'rows.json'] if (folder / 'rows.json').is_file() else sorted(folder.rglob('row.json'))
        if not files:
            raise FileNotFoundError(f'{folder} holds no rows.json and no row.json of an arm')
        for file in files:
            found = json.loads(file.read_text(encoding='utf-8'))
            rows += found if isinstance(found, list) else [found]
    out = args.out or args.folder[0]
    write(rows, out)
    print(markdown(rows))
    print(f'written to {out}')
