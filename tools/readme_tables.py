"""Write the measured tables of the plugins' READMEs from the results of their scripts.

``python tools/readme_tables.py`` replaces what stands between ``<!-- claims -->``, ``<!-- benchmark -->`` or
``<!-- compare -->`` and ``<!-- end -->`` in ``projects/*/README.md`` by the numbers in ``projects/*/results``; a test
compares the two. Numbers are never typed.
"""

import json
import re
from pathlib import Path

from evidence import ROOT, markdown_table

BLOCK = re.compile(r'(<!-- (claims|benchmark|compare) -->\n).*?(<!-- end -->)', re.DOTALL)
ANSWERS = {True: 'holds', False: '**does not hold**', None: 'is **undecided**'}


def claims_block(claims: list[dict]) -> str:
    """One table a claim, with the answer above, and how it was measured below."""
    parts = []
    for number, claim in enumerate(claims, start=1):
        rows = [
            [arm['name'], arm['metric'], *('' if arm[key] is None else f'{arm[key]:.3f}' for key in ('mean', 'std'))]
            for arm in claim['arms']
        ]
        parts.append(f'**{number}. {claim["claim"]}.** Expected: {claim["expected"]}. It {ANSWERS[claim["holds"]]}.')
        parts.append(markdown_table(('arm', 'metric', 'mean', 'std'), rows))
    seeds = sorted({seed for claim in claims for arm in claim['arms'] for seed in arm['seeds']})
    parts.append(f'Seeds: {", ".join(map(str, seeds))}. {origin_line(claims[0])}')
    return '\n\n'.join(parts)


def origin_line(result: dict) -> str:
    """How a result was measured."""
    versions = ', '.join(f'{name} {version}' for name, version in result['versions'].items())
    return f'`{result["command"]}`, {result["seconds"]} s, {result["machine"]}, {result["date"]}; {versions}.'


def fill(readme: str, results: Path) -> str:
    """Return a README with its blocks as the results say; a block without results stays."""

    def block(match: re.Match) -> str:
        file = results / f'{match[2]}.json'
        if not file.is_file():
            return match[0]
        data = json.loads(file.read_text(encoding='utf-8'))
        text = claims_block(data) if match[2] == 'claims' else f'{data["table"]}\n\n{origin_line(data)}'
        return f'{match[1]}\n{text}\n\n{match[3]}'

    return BLOCK.sub(block, readme)


def main() -> None:
    """Fill the READMEs of all plugins."""
    for path in sorted(ROOT.glob('projects/*/README.md')):
        old = path.read_text(encoding='utf-8')
        new = fill(old, path.parent / 'results')
        if new != old:
            path.write_text(new, encoding='utf-8')
            print(path.relative_to(ROOT))


if __name__ == '__main__':
    main()
