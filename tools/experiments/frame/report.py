"""What people read: verdict tables for READMEs, and the whole of the results for RESULTS.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from experiments.frame.verdict import FAILS, HOLDS, MOST_SEEDS, UNDECIDED, confidence

SEVERITY = {FAILS: 0, UNDECIDED: 1, HOLDS: 2}
SHOWN = {HOLDS: 'holds', FAILS: '**does not hold**', UNDECIDED: 'undecided'}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a markdown table; a column is left out if no row has anything in it."""
    kept = [column for column in range(len(header)) if any(str(row[column]) for row in rows)]
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(str(line[column]) for column in kept) + ' |' for line in lines)


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many digits that count; nothing for None."""
    if value is None:
        return ''
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.{digits}g}'


def interval_text(entry: dict) -> str:
    """``0.12 [0.05, 0.19]``, and after a look that decided nothing ``0.12 [0.04, 0.20] (97.5 %)``."""
    mean, interval = number(entry['mean'], 3) or 'nothing', entry['interval']
    if entry['exact']:
        return mean
    if interval and abs(entry['mean']) < 1e-6 * (interval[1] - interval[0]):
        mean = '0'  # what is left of it is rounding
    if not interval:
        return f'{mean}, no interval'
    looks = len(entry.get('looks', ()))
    level = f' ({100 * confidence(looks):g} %)' if looks else ''
    return f'{mean} [{number(interval[0], 3)}, {number(interval[1], 3)}]{level}'


def verdict_text(entry: dict) -> str:
    """The verdict of a comparison, with the number of seeds that would decide."""
    needed = entry['needed']
    if needed is None:
        return SHOWN[entry['verdict']]
    return f'undecided; {f"more than {needed:,}" if needed >= MOST_SEEDS else needed} {entry["unit"]} would decide'


def deciding(claim: dict) -> dict | None:
    """Return the comparison that the claim's verdict comes from: of the worst verdict, and nearest to its bound.

    None for a claim of an older record that kept no differences.
    """

    def distance(entry: dict) -> tuple[int, float]:
        mean, bound = entry['mean'] or 0.0, float(entry['expected'].split()[1])
        low, high = entry['interval'] or (mean, mean)
        return SEVERITY[entry['verdict']], abs(mean - bound) / max(high - low, 1e-12)

    return min(claim['judged'], key=distance, default=None)


def needed(claim: dict) -> int | None:
    """Return how many seeds would decide all comparisons that are undecided; None if that cannot be said of one."""
    numbers = [entry['needed'] for entry in claim['judged'] if entry['verdict'] == UNDECIDED]
    return None if None in numbers else max(numbers)


def verdict_table(claims: Sequence[dict]) -> str:
    """One row a claim: what was expected, the comparison that decides, the verdict."""
    rows = []
    for claim in claims:
        measured, verdict = 'paired differences were not kept', SHOWN[claim['verdict']]
        if entry := deciding(claim):
            measured = f'{entry["name"]}, {entry["metric"]}: {interval_text(entry)}'
            measured += f' (least certain of {len(claim["judged"])})' if len(claim['judged']) > 1 else ''
            verdict = verdict_text(entry | dict(needed=needed(claim))) if claim['verdict'] == UNDECIDED else verdict
        verdict += f' (of {claim["older"]})' if 'older' in claim else ''
        rows.append([claim['claim'], claim['expected'], measured, verdict])
    return markdown_table(('claim', 'expected', 'measured [95 % interval]', 'verdict'), rows)


def verdict_lines(claims: Sequence[dict]) -> list[str]:
    """The same for a terminal."""
    lines = []
    for claim in claims:
        lines += ['', f'{claim["verdict"].upper()}: {claim["claim"]}', f'  expected: {claim["expected"]}']
        lines += [
            f'  {entry["name"]}, {entry["metric"]}: {interval_text(entry)}, {verdict_text(entry).replace("*", "")}'
            for entry in claim['judged']
        ]
    return lines


def count_verdicts(claims: Sequence[dict]) -> str:
    """``3 hold, 1 does not hold, 2 undecided``."""
    found = Counter(claim['verdict'] for claim in claims)
    one = {HOLDS: ('holds', 'hold'), FAILS: ('does not hold', 'do not hold'), UNDECIDED: ('undecided',) * 2}
    return ', '.join(f'{found[kind]} {one[kind][found[kind] > 1]}' for kind in (HOLDS, FAILS, UNDECIDED) if found[kind])


def claims_section(record: dict, data: str = '') -> str:
    """All claims with the numbers behind them.

    Args:
        record: As an experiment writes it.
        data: Name of another data set that it ran on, and of its folder in ``results``.
    """
    parts = [f'## Claims on {data}' if data else '## Claims', f'{measured_by(record)} {versions_of(record)}']
    if not record.get('older'):
        picture = f'results/{data}/claims.png' if data else 'results/claims.png'
        parts.append(f'![Each comparison with its 95 % interval and its bound]({picture})')
    for place, claim in enumerate(record['claims'], start=1):
        parts.append(f'### {place}. {claim["claim"]}: {claim["verdict"]}')
        parts.append(f'Source: {claim["source"]}. Expected: {claim["expected"]}.')
        if 'older' in claim:
            parts.append(f'**Measured on {claim["older"]}, with an earlier version of the code; not run anew.**')
        rows = []
        for entry in claim['judged']:
            # One value with an interval: of a bootstrap, over an unknown number.
            bootstrapped = entry['n'] == 1 and entry['interval']
            count = '' if entry['exact'] else entry['unit'] if bootstrapped else f'{entry["n"]} {entry["unit"]}'
            texts = interval_text(entry), count, verdict_text(entry)
            rows.append([entry['name'], entry['metric'], entry['expected'], *texts])
        if rows:
            header = ('compared', 'metric', 'expected', 'mean [95 % interval]', 'n', 'verdict')
            parts.append(markdown_table(header, rows))
        if claim['arms']:
            # Arms of one claim may have other numbers of seeds; older records kept no values.
            rows = [
                [a['name'], a['metric'], number(a['mean']), number(a['std'], 2), len(a.get('values') or ()) or '']
                for a in claim['arms']
                if a['mean'] is not None
            ]
            parts.append(markdown_table(('arm', 'metric', 'mean', 'std', 'n'), rows))
    return '\n\n'.join(parts)


def measured_by(record: dict) -> str:
    """How a record was measured, and that it is older than the code where it is."""
    line = f'`{record["command"]}`, {record["seconds"]} s, {record["machine"]}, {record["date"]}.'
    return f'**{record["older"]}** {line}' if record.get('older') else line


def versions_of(record: dict) -> str:
    """With which packages."""
    return ', '.join(f'{name} {version}' for name, version in record['versions'].items()) + '.'


def bounds_table(record: dict) -> str:
    """What a benchmark asserts; nothing of an older record."""
    if not record['bounds']:
        return ''
    rows = []
    for bound in record['bounds']:
        limit = f'{bound["side"]} {bound["limit"]:g}'
        rows.append([bound['what'], number(bound['value'], 3), limit, SHOWN[bound['verdict']], bound['reason']])
    return markdown_table(('what', 'measured', 'bound', '', 'why it does not depend on the processor'), rows)


def benchmark_section(record: dict) -> str:
    """The whole table of a benchmark."""
    parts = ['## Benchmark', f'{measured_by(record)} {versions_of(record)}', record['table'], bounds_table(record)]
    return '\n\n'.join(filter(None, parts))
