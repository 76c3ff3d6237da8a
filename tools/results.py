"""Write ``projects/*/RESULTS.md`` and the tables of the READMEs from what the experiments found.

``python tools/results.py`` fills what stands between ``<!-- claims -->`` (verdicts) or ``<!-- benchmark -->`` (bounds)
and ``<!-- end -->`` in each README, and in the main one ``<!-- verdicts -->`` (how many of each plugin), writes
RESULTS.md anew, and the results of the metafiles, which ``tools/record.py`` keeps in ``results/models.json``. A test
compares. What ``tools/claims.py <plugin> --data … --out projects/<plugin>/results/<set>`` found on another data set has
a section of its own, and a sentence below the table of the README.
"""

import json
import re
from collections import Counter
from pathlib import Path

from experiments import ROOT
from experiments.frame.report import (
    benchmark_section,
    bounds_table,
    claims_section,
    count_verdicts,
    markdown_table,
    measured_by,
    verdict_table,
)
from mmplugins.utils.atomic import write_text

BLOCK = re.compile(r'(<!-- (claims|benchmark) -->).*?(<!-- end -->)', re.DOTALL)
MODEL = re.compile(r'(  - Name: (\S+)\n    In Collection:.*?    Results:\n)(.*?)(    Weights:)', re.DOTALL)
TASKS = {  # by a part of the name of a metric
    'top1': 'Image Classification',
    'few_shot': 'Few-Shot Image Classification',
    'mIoU': 'Semantic Segmentation',
    'psnr': 'Image Editing',
    'AP': 'Object Detection',
}
MORE = 'All numbers: [RESULTS.md](RESULTS.md).'


def read(path: Path) -> dict | None:
    """Return a record, or None if it is not there."""
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else None


def on_other_data(results: Path) -> list[tuple[str, dict]]:
    """Return name and record of each further data set that the claims were run on."""
    return [(path.parent.name, read(path)) for path in sorted(results.glob('*/claims.json'))]


def fill(readme: str, results: Path) -> str:
    """Return a README with its blocks as the results say; a block without results stays."""

    def block(match: re.Match) -> str:
        record = read(results / f'{match[2]}.json')
        if record is None:
            return match[0]
        source = f'{measured_by(record)} {MORE}'
        if match[2] == 'claims':
            table = verdict_table(record['claims'])
            others = [f'On {name}: {count_verdicts(other["claims"])}.' for name, other in on_other_data(results)]
            source = ' '.join([*others, source])
        else:
            table = bounds_table(record)
        return '\n\n'.join(filter(None, (match[1], table, source, match[3])))

    return BLOCK.sub(block, readme)


def page(name: str, results: Path) -> str:
    """Return RESULTS.md of a plugin: the claims, the benchmark, and tables that an experiment wrote besides."""
    parts = [f'# Results of `{name}`', 'Written by `python tools/results.py`; do not edit. See [README.md](README.md).']
    if record := read(results / 'claims.json'):
        parts.append(claims_section(record))
    parts += [claims_section(record, name) for name, record in on_other_data(results)]
    if record := read(results / 'benchmark.json'):
        parts.append(benchmark_section(record))
    if models := read(results / 'models.json'):
        parts.append(models_section(models))
    for path in sorted(results.glob('*.json')):
        if path.stem not in ('claims', 'benchmark') and 'table' in (record := read(path)):
            title = path.stem.replace('_', ' ').capitalize()
            parts.append(f'## {title}\n\n{measured_by(record)}\n\n{record["table"]}')
    return '\n\n'.join(parts) + '\n'


def models_section(models: dict[str, dict]) -> str:
    """Return what was measured with configs as they are."""

    def text(model: dict, metric: str, mean: float) -> str:
        values = [found[metric] for found in model.get('seeds', {}).values()]
        return f'{metric} {mean:g}' + (f' ({min(values):g} to {max(values):g})' if len(values) > 1 else '')

    rows = []
    for name, model in models.items():
        values = ', '.join(text(model, *item) for item in model['metrics'].items())
        seeds = ', '.join(model.get('seeds', '0'))
        measured = f'{model["machine"]}, {model["date"]}'
        rows.append([f'`{name}`', model['dataset'], values, seeds, measured, model.get('note', '')])
    header = ('config', 'data', 'last validation or test, mean (range)', 'seeds', 'measured', 'note')
    return f'## Configs\n\n{markdown_table(header, rows)}'


def fill_metafile(metafile: str, models: dict[str, dict]) -> str:
    """Return a metafile whose models have the results that were measured, and no others."""

    def one(match: re.Match) -> str:
        if (model := models.get(match[2])) is None:
            return match[1] + match[4]
        task = next(task for part, task in TASKS.items() if any(part in metric for metric in model['metrics']))
        values = ', '.join(f'{metric}: {value:g}' for metric, value in model['metrics'].items())
        lines = (f'      - Task: {task}', f'        Dataset: {model["dataset"]}', f'        Metrics: {{{values}}}')
        return match[1] + ''.join(f'{line}\n' for line in lines) + match[4]

    return MODEL.sub(one, metafile)


def count_all_verdicts(readme: str) -> str:
    """Return the main README with the number of verdicts of each plugin."""
    kinds = ('holds', 'does not hold', 'undecided')
    rows = ['| plugin | claims that hold | that do not | undecided |', '|---|---|---|---|']
    for path in sorted(ROOT.glob('projects/*/results/claims.json')):
        found = Counter(claim['verdict'] for claim in read(path)['claims'])
        name = path.parents[1].name
        cells = ' | '.join(str(found[kind]) for kind in kinds)
        rows.append(f'| [{name}](projects/{name}/RESULTS.md) | {cells} |')
    table = '\n'.join(rows)
    return re.sub(
        '(<!-- verdicts -->).*?(<!-- end -->)', lambda m: f'{m[1]}\n\n{table}\n\n{m[2]}', readme, flags=re.DOTALL
    )


def update(path: Path, text: str) -> None:
    """Write a file if it changes, and say so."""
    if not path.is_file() or path.read_text(encoding='utf-8') != text:
        write_text(path, text)
        print(path.relative_to(ROOT))


def main() -> None:
    """Write what has changed."""
    for results in sorted(ROOT.glob('projects/*/results')):
        readme, metafile = results.with_name('README.md'), results.with_name('metafile.yml')
        update(readme, fill(readme.read_text(encoding='utf-8'), results))
        update(results.with_name('RESULTS.md'), page(results.parent.name, results))
        update(metafile, fill_metafile(metafile.read_text(encoding='utf-8'), read(results / 'models.json') or {}))
    front = ROOT / 'README.md'
    update(front, count_all_verdicts(front.read_text(encoding='utf-8')))


if __name__ == '__main__':
    main()
