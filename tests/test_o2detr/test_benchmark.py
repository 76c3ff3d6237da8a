"""The benchmark runs, and what it wrote last holds its bounds."""

import json
import sys

import pytest


@pytest.mark.slow
def test_small_run(run, repo, tmp_path):
    sizes = ('--sizes', '128', '192', '--dims', '32', '--model-size', '128', '--queries', '20', '--repeats', '1')
    limits = ('--dense-until', '128', '--stack-until', '128', '--device', 'cpu', '--out', tmp_path / 'b.json')
    done = run(sys.executable, '-W', 'ignore', repo / 'tools/benchmarks/o2detr.py', *sizes, *limits)
    data = json.loads((tmp_path / 'b.json').read_text())
    result = data['results']['cpu']
    arms = {'ours', 'ours, exchange', 'deformable'}
    assert set(result['encoder']['128']['layer']) == arms | {'dense, explicit', 'dense, fused'}
    assert set(result['encoder']['192']['layer']) == set(result['encoder']['128']['six layers']) == arms
    assert data['table'] in done.stdout and {'command', 'machine', 'versions', 'date'} <= set(data)
    # Counted, so the same on any machine.
    assert result['bounds']['layer_bytes']['holds']
    counts = result['encoder']['192']['layer']
    assert counts['ours']['flops'] < counts['deformable']['flops']


def test_recorded_bounds_hold(repo):
    data = json.loads((repo / 'projects/o2detr/results/benchmark.json').read_text())
    bounds = data['results']['cpu']['bounds']
    assert all(bound['holds'] for bound in bounds.values()), bounds
