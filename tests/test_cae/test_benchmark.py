"""The benchmark compares like with like."""

import importlib.util

import pytest
import torch


@pytest.fixture
def bench(repo, monkeypatch):
    """The script as a module, with models so narrow that a step is quick."""
    spec = importlib.util.spec_from_file_location('cae_benchmark', repo / 'tools/benchmarks/cae.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.register_all_modules()
    monkeypatch.setattr(module, 'WIDTHS', dict(small=48))
    return module


def test_ours_and_the_host_agree(bench):
    batch = bench.make_batch(1, 'cpu')
    ours, host = (bench.build(arm, 'small', *batch[2:]) for arm in ('ours', 'host'))
    bench.spread_weights(ours)
    bench.copy_weights(ours, host)
    differences = bench.compare(ours, host, batch)
    assert max(differences.values()) < 1e-5, differences
    host.neck.mask_token.data.normal_()  # and a difference would show
    assert bench.compare(ours, host, batch)['latents'] > 1e-3


@pytest.mark.parametrize('arm', ['v2', 'beit'])
def test_other_arms_take_a_step(bench, arm):
    batch = bench.make_batch(1, 'cpu')
    losses = bench.step(bench.build(arm, 'small', *batch[2:]), batch)
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())


def test_masks_hide_as_many_as_they_say(bench):
    _, samples, ids, features = bench.make_batch(3, 'cpu')
    assert [int(sample.mask.sum()) for sample in samples] == [bench.MASKED] * 3
    assert ids.shape == (3, 196) and features.shape == (3, 197, 512)


def test_table_names_the_bounds(bench):
    arm = dict(zip(bench.ARMS, (1.0, 2.0, 0.5, 3.0), strict=True))
    ratios = {'ours/host': dict(memory=0.5, time=0.5), 'v2/beit': dict(memory=0.2, time=0.2)}
    result = dict(seconds=arm, bytes={name: value * 2**20 for name, value in arm.items()}, ratios=ratios)
    rows = bench.table(dict(cpu=dict(small=result))).splitlines()
    assert len(rows) == 6 and '≤ 0.8' in rows[2] and '≤ 0.95' in rows[3] and '0.200 | – |' in rows[4]
