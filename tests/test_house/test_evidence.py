"""Numbers in the READMEs and in RESULTS.md are those that the experiments wrote."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import record
import results
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent.name for path in ROOT.glob('projects/*/results'))
VERDICTS = ('holds', 'undecided', 'holds')
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
    assert results.count_all_verdicts(front) == front, 'run python tools/results.py'
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


def test_claims_on_another_data_set_have_a_section_and_a_sentence(tmp_path):
    claims = [dict(claim=text, source='ours', expected='', judged=[], arms=[], verdict=text) for text in VERDICTS]
    for folder in (tmp_path, tmp_path / 'flowers5'):
        folder.mkdir(exist_ok=True)
        (folder / 'claims.json').write_text(json.dumps(dict(**RECORD, claims=claims)))
    page = results.page('prae', tmp_path)
    assert page.count('## Claims\n') == page.count('## Claims on flowers5\n') == page.count('results/claims.png') == 1
    assert page.count('results/flowers5/claims.png') == 1
    readme = results.fill('<!-- claims --><!-- end -->', tmp_path)
    assert 'On flowers5: 2 hold, 1 undecided. `c`, 1 s' in readme


@pytest.mark.parametrize('plugin', PLUGINS)
def test_metafiles_have_the_results_that_were_recorded_and_no_others(plugin):
    models = results.read(ROOT / f'projects/{plugin}/results/models.json') or {}
    content = yaml.safe_load((ROOT / f'projects/{plugin}/metafile.yml').read_text(encoding='utf-8'))
    found = {model['Name']: model['Results'][0] for model in content['Models'] if model['Results']}
    assert set(found) == set(models), 'run python tools/results.py'
    for name, result in found.items():
        assert (result['Dataset'], result['Metrics']) == (models[name]['dataset'], models[name]['metrics'])


def test_a_result_that_is_gone_leaves_the_metafile():
    head, end = '  - Name: net\n    In Collection: Nets\n    Results:\n', '    Weights:\n'
    bare = head + end + head.replace('net', 'other') + end
    one = dict(net=dict(dataset='BCCD', metrics={'coco/bbox_mAP': 0.5}))
    filled = results.fill_metafile(bare, one)
    assert yaml.safe_load(filled)[0]['Results'] == [
        dict(Task='Object Detection', Dataset='BCCD', Metrics={'coco/bbox_mAP': 0.5})
    ]
    assert yaml.safe_load(filled)[1]['Results'] is None
    assert results.fill_metafile(filled, one) == filled
    assert results.fill_metafile(filled, {}) == bare


def test_the_last_validation_of_the_newest_log_is_recorded(tmp_path, monkeypatch):
    for day, value in (('20260101_000000', 0.1), ('20260102_000000', 0.2)):
        log = tmp_path / 'run' / day / 'vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        rows = [
            {'coco/bbox_mAP_50': 0.0},
            {'coco/bbox_mAP_50': value, 'coco/bbox_mAP_s': 0.3, 'time': 1.0},
            {'loss': 2.0},
        ]
        log.write_text('\n'.join(map(json.dumps, rows)))
    monkeypatch.setattr(record, 'ROOT', tmp_path)
    plugin = tmp_path / 'projects/prae'
    (plugin / 'results').mkdir(parents=True)
    (plugin / 'metafile.yml').write_text('Models: [{Name: net, Metadata: {Training Data: BCCD}}]')
    with pytest.raises(SystemExit, match='no config that a metafile names'):
        record.main([str(tmp_path / 'run')])
    (tmp_path / 'run/net.py').write_text('randomness = dict(seed=0)')
    record.main([str(tmp_path / 'run')])
    kept = json.loads((plugin / 'results/models.json').read_text())['net']
    assert (kept['dataset'], kept['metrics']) == ('BCCD', {'coco/bbox_mAP_50': 0.2})
    with pytest.raises(SystemExit, match='no log of a validation or test'):
        (tmp_path / 'empty').mkdir()
        (tmp_path / 'empty/net.py').write_text('randomness = dict(seed=0)')
        record.main([str(tmp_path / 'empty')])
    # A test later on is the newest.
    tested = tmp_path / 'run/20260103_000000/20260103_000000.json'
    tested.parent.mkdir()
    tested.write_text(json.dumps({'few_shot/clean': 71.5, 'few_shot/clean_ci': 0.5, 'few_shot/pgd10': 40.0}))
    record.main([str(tmp_path / 'run')])
    kept = json.loads((plugin / 'results/models.json').read_text())['net']
    assert kept['metrics'] == {'few_shot/clean': 71.5, 'few_shot/pgd10': 40.0}
    shutil.rmtree(tested.parent)
    other = tmp_path / 'other'
    shutil.copytree(tmp_path / 'run', other)
    with pytest.raises(SystemExit, match='trained net with seed 0: give net, each seed once'):
        record.main([str(tmp_path / 'run'), str(other)])
    (other / 'net.py').write_text('randomness = dict(seed=None)')  # mmengine draws one
    with pytest.raises(SystemExit, match='no checkpoint is left'):
        record.main([str(other)])
    torch.save({'meta': {'seed': 7}}, other / 'epoch_1.pth')
    models = plugin / 'results/models.json'
    models.write_text(json.dumps({'net': {**kept, 'date': 'before', 'note': 'by hand'}}))
    newest = other / '20260102_000000/vis_data/scalars.json'
    newest.write_text(newest.read_text().replace('0.2', '0.5'))
    record.main([str(tmp_path / 'run'), str(other)])
    models = json.loads(models.read_text())
    assert models['net']['metrics'] == {'coco/bbox_mAP_50': 0.35}
    assert models['net']['note'] == 'by hand' and models['net']['date'] != 'before'
    assert models['net']['seeds'] == {'0': {'coco/bbox_mAP_50': 0.2}, '7': {'coco/bbox_mAP_50': 0.5}}
    assert 'coco/bbox_mAP_50 0.35 (0.2 to 0.5) | 0, 7 |' in results.models_section(models)


@pytest.mark.slow
@pytest.mark.parametrize('plugin', PLUGINS)
def test_claims_run(plugin, run, tmp_path):
    if plugin == 'prae' and not (ROOT / 'data/detections').is_dir():
        pytest.skip('needs the boxes of six detectors, which are not part of the repository')
    command = [sys.executable, '-W', 'ignore', ROOT / 'tools/claims.py', plugin, '--quick', '--work-dir', tmp_path]
    run(*command, '--processes', '1', timeout=900)
    record = json.loads((tmp_path / 'quick/claims.json').read_text())
    assert {'command', 'seconds', 'machine', 'versions', 'date', 'minutes'} <= set(record) and record['claims']
    assert (tmp_path / 'quick/claims.png').stat().st_size < 250_000


@pytest.mark.slow
@pytest.mark.parametrize('plugin', PLUGINS)
def test_benchmark_runs(plugin, run, tmp_path):
    if plugin == 'prae' and not (ROOT / 'data/detections').is_dir():
        pytest.skip('needs the boxes of six detectors, which are not part of the repository')
    out = tmp_path / 'benchmark.json'
    command = [sys.executable, '-W', 'ignore', ROOT / 'tools/benchmark.py', plugin, '--quick', '--device', 'cpu']
    run(*command, '--out', out, timeout=900)
    record = json.loads(out.read_text())
    assert record['table'] and record['measured']


def test_an_unknown_plugin_is_named(repo):
    done = subprocess.run([sys.executable, repo / 'tools/claims.py', 'nothing'], capture_output=True, text=True)
    assert done.returncode and 'cae' in done.stderr and 'Traceback' not in done.stderr
