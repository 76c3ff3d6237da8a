"""The experiments: arms, pairs of digits, the literal version, and what follows from made-up results."""

import random

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('sklearn', reason='pip install scikit-learn')
from sklearn.datasets import load_digits

from experiments.dsnet.claims import (
    BLOCKS,
    DSFPN,
    EPOCHS,
    FPN,
    NECKS,
    PAIRS,
    PHOTOS,
    PUBLISHED,
    claims,
    sizes,
)
from experiments.dsnet.network import ALIGNED, DUAL, GLOBAL, LOCAL, OPTIONS, WIDER, Classifier
from experiments.dsnet.pairs import make_pairs
from experiments.frame.benchmark import Options
from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.workloads.classify import count


def test_controls_have_the_weights_of_the_aligned_arm():
    sizes = {name: count(Classifier(name, PHOTOS, 3, 10)) for name in OPTIONS}
    assert sizes[ALIGNED] <= sizes[WIDER] < 1.01 * sizes[ALIGNED]
    assert sizes[LOCAL] < sizes[DUAL] < sizes[ALIGNED]
    aligned, single = (count(Classifier(name, PAIRS, 1, 2)) for name in (ALIGNED, GLOBAL))
    assert aligned <= single < 1.01 * aligned


def test_arms_have_the_streams_of_their_names():
    keys = {name: '\n'.join(Classifier(name, PHOTOS, 3, 10).state_dict()) for name in OPTIONS}
    assert [name for name, text in keys.items() if '.glob.' not in text] == [LOCAL]
    assert [name for name, text in keys.items() if '.local.' not in text] == [GLOBAL]
    assert [name for name, text in keys.items() if '.align.' in text] == [ALIGNED]


def test_pairs_of_digits():
    canvases, labels = make_pairs(40, True, 0)
    assert canvases.shape == (40, 1, 8, 40) and labels.sum() == 20
    assert torch.equal(canvases, make_pairs(40, True, 0)[0])
    scans = torch.from_numpy(load_digits().images).float() / 16
    kinds = torch.from_numpy(load_digits().target)
    for training, chosen in ((True, slice(None, 1200)), (False, slice(1200, None))):
        canvases, labels = make_pairs(40, training, 0)
        assert not canvases[..., 8:-8].any()  # far apart
        for canvas, label in zip(canvases[:, 0], labels, strict=True):
            ends = [
                kinds[chosen][(scans[chosen] == end).all(-1).all(-1)] for end in (canvas[:, :8], canvas[:, -8:])
            ]  # fmt: skip
            assert (ends[0][0] == ends[1][0]) == bool(label)


def found_with(task: str = '', arm: str = '', **changes: float) -> Found:
    """Results in which every direction is as claimed, with a small noise, but for one arm of a task."""
    noise, results = random.Random(0), {}
    tops = {LOCAL: 50, GLOBAL: 52, DUAL: 60, WIDER: 61, ALIGNED: 70}
    rows = {
        'photos': {name: dict(top1=top, parameters=1, images=1141, majority=20) for name, top in tops.items()},
        'pairs': {name: dict(top1=top, parameters=1, test_images=2000) for name, top in tops.items() if name != WIDER},
    }
    scores = {FPN: 0, BLOCKS: 0, DSFPN: 1}
    for epochs in EPOCHS:
        rows[f'detect {epochs}'] = {
            name: dict(ap50=score, parameters=1, cpu_seconds=1) for name, score in scores.items()
        }
    for name, arms in rows.items():
        for key, row in arms.items():
            for seed in range(3):
                moved = {
                    measure: value + noise.random() / 100 for measure, value in row.items() if measure != 'parameters'
                }
                results[Job(name, key, seed)] = {**row, **moved}
    for name, (millions, gmacs) in PUBLISHED.items():
        results[Job('sizes', name, 0)] = dict(millions=millions, gmacs=gmacs - 0.1)
    for job, row in results.items():
        if (job.task, job.arm) == (task, arm):
            row.update(
                {key: value + (0 if task == 'sizes' else noise.random() / 100) for key, value in changes.items()}
            )
    return Found(results)


def verdicts(found: Found) -> list[str]:
    return [to_json(claim)['verdict'] for claim in claims(found)]


def test_claims_hold_where_every_direction_is_right():
    assert verdicts(found_with()) == ['holds'] * 6


@pytest.mark.parametrize(
    ('place', 'task', 'arm', 'changes'),
    [
        (0, 'sizes', 'tiny', dict(millions=10.6)),
        (0, 'sizes', 'base', dict(gmacs=8.5)),
        (1, 'photos', LOCAL, dict(top1=65)),
        (2, 'photos', WIDER, dict(top1=75)),
        (3, 'pairs', GLOBAL, dict(top1=75)),
        (4, 'detect 12', FPN, dict(ap50=2)),
        (5, 'detect 18', BLOCKS, dict(ap50=2)),
    ],
)
def test_claims_fail_where_a_direction_is_wrong(place, task, arm, changes):
    found = verdicts(found_with(task, arm, **changes))
    assert found[place] == 'does not hold' and found.count('holds') == 5


def test_the_control_of_the_pyramid_has_no_fewer_weights(repo):
    init_default_scope('mmdet')
    counts = {}
    for name, (config, changes) in NECKS.items():
        cfg = Config.fromfile(repo / 'configs/dsnet' / config)
        cfg.merge_from_dict(changes)
        with torch.device('meta'):
            counts[name] = sum(weight.numel() for weight in MODELS.build(cfg.model).parameters())
    assert counts[FPN] < counts[DSFPN] <= counts[BLOCKS] < 1.1 * counts[DSFPN]


def test_sizes_are_counted():
    found = sizes('tiny', 0, None)
    assert found['millions'] == pytest.approx(10.534312)
    assert found['gmacs'] < PUBLISHED['tiny'][1]


@pytest.fixture
def benchmark():
    """Return the module; it needs timm."""
    pytest.importorskip('timm')
    from experiments.dsnet import benchmark

    return benchmark


@pytest.mark.slow
def test_literal_version_computes_the_same(benchmark, monkeypatch):
    benchmark.check(Options('cpu', True, None, None))
    attention = benchmark.explicit_attention
    monkeypatch.setattr(benchmark, 'explicit_attention', lambda q, k, v: attention(1.1 * q, k, v))
    with pytest.raises(AssertionError):
        benchmark.check(Options('cpu', True, None, None))


@pytest.mark.parametrize(('ours', 'verdict'), [(30.0, 'holds'), (40.0, 'does not hold')])
def test_bounds_on_memory(benchmark, ours, verdict):
    measured = {benchmark.BLOCK: dict(ours=dict(peak=ours, kept=ours), literal=dict(peak=100.0, kept=100.0))}
    assert [bound.to_json()['verdict'] for bound in benchmark.bounds(measured)] == [verdict] * 2
