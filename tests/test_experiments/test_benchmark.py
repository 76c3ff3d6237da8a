"""Cases, bounds and the file of a benchmark."""

import argparse
import json

import pytest
import torch

from experiments.frame import measure
from experiments.frame.benchmark import Benchmark, Bound, Case, Options, ratio, run, run_case, table_of


def case(**more):
    small, large = torch.nn.Linear(8, 8), torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Linear(64, 8))
    x = torch.ones(4, 8)
    return Case('layer', {'ours': lambda: small(x), 'theirs': lambda: large(x)}, base='theirs', **more)


def arguments(out, device):
    return argparse.Namespace(plugin='dsnet', device=device, repeats=None, threads=1, data=None, out=out, quick=True)


def test_each_arm_is_measured_alike():
    found = run_case(case(), Options('cpu', True, None, None))
    assert set(found['ours']) == set(found['theirs']) == {'seconds', 'flops', 'kept', 'kernels', 'traffic', 'syncs'}
    assert found['ours']['flops'] == 2 * 4 * 64 and found['theirs']['flops'] == 2 * 4 * 1024


def test_nothing_is_counted_or_timed_where_it_has_no_sense():
    found = run_case(case(count=False, timed=False), Options('cpu', True, None, None))
    assert found == {'ours': {}, 'theirs': {}}


def test_graphs_are_counted():
    layer = torch.nn.Linear(8, 8)
    found = run_case(case(count=False, compiled=dict(ours=(layer, torch.ones(4, 8)))), Options('cpu', True, None, None))
    assert found['ours']['graphs'] == 1


def test_what_the_case_measured_itself_is_taken():
    given = dict(ours=dict(peak=5), other=dict(peak=6))
    found = run_case(case(count=False, timed=False, given=given), Options('cpu', True, None, None))
    assert found == {'ours': dict(peak=5), 'theirs': {}, 'other': dict(peak=6)}


def test_table_has_ratios_over_the_base():
    measured = {'layer': {'ours': dict(flops=2e9), 'theirs': dict(flops=4e9)}}
    rows = table_of(measured, dict(layer='theirs')).splitlines()
    assert rows[0] == '| case | arm | GFLOP, forward |'
    assert rows[2:] == ['| layer | ours | 2 (0.5) |', '| layer | theirs | 4 |']
    assert ratio(measured, 'layer', 'ours', 'theirs', 'flops') == 0.5


@pytest.mark.parametrize(('side', 'verdict'), [('<=', 'holds'), ('>=', 'does not hold')])
def test_bound(side, verdict):
    assert Bound('time', 0.5, 0.9, 'half of the products', side).to_json()['verdict'] == verdict


def test_file_of_a_benchmark(tmp_path):
    def bounds(measured):
        return [Bound('products', ratio(measured, 'layer', 'ours', 'theirs', 'flops'), 0.1, 'one layer less')]

    run(Benchmark(cases=lambda options: [case()], bounds=bounds), arguments(tmp_path / 'b.json', 'cpu'))
    record = json.loads((tmp_path / 'b.json').read_text())
    assert record['bounds'][0]['verdict'] == 'holds'
    assert {'table', 'measured', 'command', 'machine', 'versions', 'date', 'threads'} <= set(record)


def test_each_device_has_cases_and_bounds_of_its_own(tmp_path, monkeypatch):
    """On a GPU that is only pretended: the tensors stay where they are."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'card')
    monkeypatch.setattr(measure, 'seconds_of', lambda call, device: call() or {'cpu': 2.0, 'cuda': 1.0}[device])
    benchmark = Benchmark(
        cases=lambda options: [case()],
        bounds=lambda measured: [Bound('time', measured['layer']['ours']['seconds'], 1.5, 'an example')],
    )
    run(benchmark, arguments(tmp_path / 'b.json', None))
    record = json.loads((tmp_path / 'b.json').read_text())
    assert list(record['measured']) == ['layer', 'layer, CUDA'] and record['gpu'] == 'card'
    assert [(bound['what'], bound['verdict']) for bound in record['bounds']] == [
        ('time', 'does not hold'),
        ('time, CUDA', 'holds'),
    ]


def test_a_device_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    none = dict(cases=lambda options: [], bounds=lambda measured: [])
    with pytest.raises(SystemExit, match='sees no GPU'):
        run(Benchmark(**none), arguments(tmp_path / 'b.json', 'cuda'))
    run(Benchmark(**none, devices=('cpu',)), arguments(tmp_path / 'b.json', 'cuda'))
    assert 'dsnet has nothing to measure on cuda: it runs on cpu' in capsys.readouterr().out
    assert not (tmp_path / 'b.json').exists()


@pytest.mark.parametrize('option', [dict(quick=True, data=None), dict(quick=False, data='elsewhere')])
def test_shipped_results_are_not_overwritten(option):
    args = argparse.Namespace(out=None, **option)
    with pytest.raises(SystemExit, match='--out'):
        run(Benchmark(cases=lambda options: [], bounds=lambda measured: []), args)
