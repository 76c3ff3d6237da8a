"""Numbers in the READMEs and in RESULTS.md are those that the experiments wrote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import results

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent.name for path in ROOT.glob('projects/*/results'))
RECORD = dict(command='c', seconds=1, machine='m', versions={'torch': '2'}, date='d')


@pytest.mark.parametrize('plugin', PLUGINS)
def test_tables_are_those_of_the_results(plugin):
    folder = ROOT / 'projects' / plugin
    readme = (folder / 'README.md').read_text(encoding='utf-8')
    assert results.fill(readme, folder / 'results') == readme, 'run python tools/results.py'
    page = (folder / 'RESULTS.md').read_text(encoding='utf-8')
    assert results.page(plugin, folder / 'results') == page, 'run python tools/results.py'


def test_the_main_page_counts_verdicts():
    front = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert results.count_verdicts(front) == front, 'run python tools/results.py'
    record = json.loads((ROOT / 'projects/prae/results/claims.json').read_text(encoding='utf-8'))
    number = sum(claim['verdict'] == 'holds' for claim in record['claims'])
    assert f'| [prae](projects/prae/RESULTS.md) | {number} |' in front


def test_a_changed_number_shows(tmp_path):
    bound = dict(what='products', value=0.25, side='≤', limit=0.5, verdict='holds', reason='counted')
    record = dict(**RECORD, bounds=[bound], table='| a |')
    readme = 'before\n<!-- claims -->\nold\n<!-- end -->\nafter <!-- benchmark -->\n<!-- end -->'
    (tmp_path / 'benchmark.json').write_text(json.dumps(record))
    first = results.fill(readme, tmp_path)
    assert '| products | 0.25 | ≤ 0.5 | holds | counted |' in first
    assert first.startswith('before\n<!-- claims -->\nold\n<!-- end -->\nafter <!-- benchmark -->\n')
    assert results.fill(first, tmp_path) == first
    bound['value'] = 0.26
    (tmp_path / 'benchmark.json').write_text(json.dumps(record))
    assert results.fill(first, tmp_path) != first


def test_page_takes_in_other_tables(tmp_path):
    (tmp_path / 'compare.json').write_text(json.dumps(dict(**RECORD, table='| mAP |')))
    (tmp_path / 'other.json').write_text(json.dumps(dict(no='table')))
    page = results.page('prae', tmp_path)
    assert '## Compare\n\n`c`, 1 s, m, d.\n\n| mAP |' in page and 'Other' not in page


@pytest.mark.slow
@pytest.mark.parametrize('plugin', PLUGINS)
def test_claims_run(plugin, run, tmp_path):
    if plugin == 'prae':
        pytest.skip('needs the boxes of seven detectors, which are not part of the repository')
    command = [sys.executable, '-W', 'ignore', ROOT / 'tools/claims.py', plugin, '--quick', '--work-dir', tmp_path]
    run(*command, '--processes', '1', timeout=900)
    record = json.loads((tmp_path / 'quick/claims.json').read_text())
    assert {'command', 'seconds', 'machine', 'versions', 'date', 'minutes'} <= set(record) and record['claims']
    assert (tmp_path / 'quick/claims.png').stat().st_size < 250_000


@pytest.mark.slow
@pytest.mark.parametrize('plugin', PLUGINS)
def test_benchmark_runs(plugin, run, tmp_path):
    if plugin == 'prae':
        pytest.skip('needs the boxes of seven detectors, which are not part of the repository')
    out = tmp_path / 'benchmark.json'
    command = [sys.executable, '-W', 'ignore', ROOT / 'tools/benchmark.py', plugin, '--quick', '--device', 'cpu']
    run(*command, '--out', out, timeout=900)
    record = json.loads(out.read_text())
    assert record['table'] and record['measured']


def test_an_unknown_plugin_is_named(repo):
    done = subprocess.run([sys.executable, repo / 'tools/claims.py', 'nothing'], capture_output=True, text=True)
    assert done.returncode and 'cae' in done.stderr and 'Traceback' not in done.stderr
