"""Numbers in the READMEs are those that the scripts wrote."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READMES = sorted(ROOT.glob('projects/*/README.md'))


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import readme_tables

    return readme_tables


@pytest.mark.parametrize('readme', READMES, ids=lambda path: path.parent.name)
def test_tables_are_those_of_the_results(readme, tables):
    text = readme.read_text(encoding='utf-8')
    assert tables.fill(text, readme.parent / 'results') == text, 'run python tools/readme_tables.py'


def test_a_changed_number_shows(tables, tmp_path):
    claim = dict(
        claim='More is better',
        expected='more',
        holds=False,
        arms=[dict(name='a', metric='AP', mean=0.25, std=None, seeds=[3])],
        command='c',
        seconds=1,
        machine='m',
        versions={'torch': '2'},
        date='d',
    )
    readme = 'before\n<!-- claims -->\nold\n<!-- end -->\nafter <!-- benchmark -->\n<!-- end -->'
    (tmp_path / 'claims.json').write_text(json.dumps([claim]))
    first = tables.fill(readme, tmp_path)
    assert '| a | AP | 0.250 |  |' in first and 'does not hold' in first and 'Seeds: 3.' in first
    assert first.startswith('before\n') and first.endswith('after <!-- benchmark -->\n<!-- end -->')
    assert tables.fill(first, tmp_path) == first
    claim['arms'][0]['mean'] = 0.26
    (tmp_path / 'claims.json').write_text(json.dumps([claim]))
    assert tables.fill(first, tmp_path) != first
