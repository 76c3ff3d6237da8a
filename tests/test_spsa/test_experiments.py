"""The experiments: measures against references, arms, and what follows from made-up results."""

import random

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.spsa.approximate import EXACT, exact, measure, ranks_agree, split
from experiments.spsa.claims import DETECTOR_MIXERS, LAYERS, claims, on_data, part_claims
from experiments.spsa.figure import draw_maps
from experiments.spsa.network import AGG, ARMS, GATE, MHSA, NONE, ONE, SGE, SIMAM, STEPS, TWO, Classifier, arm_of


def test_exact_attention_is_torchs():
    x = torch.randn(2, 64, 4, 5, dtype=torch.float64)
    tokens = split(x)
    expected = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
    torch.testing.assert_close(exact(x)[EXACT[1]] @ tokens, expected)


def test_rank_correlation_is_scipys():
    a, b = torch.randn(2, 50, dtype=torch.float64)
    assert ranks_agree(a, b).item() == pytest.approx(spearmanr(a, b).statistic)
    assert ranks_agree(a, a.exp()).item() == pytest.approx(1)


@pytest.mark.slow
def test_approximation_of_attention(repo):
    """On features of real images: direction of errors and ranks, against softmax attention over correlations."""
    found = measure(repo / 'tests/data/clothing10/val', 48, limit=2, seed=0)[EXACT[0]]
    assert found['error']['agg'] < found['error']['mean token'] < 1
    assert found['rank'] > 0.6


def test_maps_are_drawn(repo, tmp_path):
    draw_maps(repo / 'tests/data/clothing10/val', 32, tmp_path / 'maps.png')
    assert 10_000 < (tmp_path / 'maps.png').stat().st_size < 150_000


@pytest.mark.parametrize('layout', [ONE, TWO])
def test_arms_differ_in_the_mixer_only(layout):
    states = {}
    for mixer in (NONE, GATE, AGG, SIMAM, SGE):
        torch.manual_seed(0)
        states[mixer] = Classifier(arm_of(layout, mixer), 10).state_dict()
    for mixer in (GATE, AGG, SIMAM):
        assert states[mixer].keys() == states[NONE].keys()
        assert all(torch.equal(states[mixer][key], value) for key, value in states[NONE].items())
    assert all('.mixer.' in key for key in states[SGE].keys() - states[NONE].keys())


def test_steps_change_one_part_each():
    """What each takes from the other layout: by the names and sizes of weights, and the kinds of layers."""

    def parts(layout: str) -> dict[str, object]:
        net = Classifier(arm_of(layout, GATE), 10).backbone
        weights = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        gelu = [name for name, module in net.named_modules() if isinstance(module, nn.GELU)]
        return dict(
            gelu=bool(gelu),
            stem=len([key for key in weights if key.startswith('stem.') and len(weights[key]) == 4]),
            bias='stages.0.0.dwconv.bias' in weights,
            residuals=1 + ('stages.0.0.pwconv.weight' in weights),
        )

    two = dict(gelu=True, stem=2, bias=True, residuals=2)
    assert parts(TWO) == two and parts(ONE) == dict(gelu=False, stem=1, bias=False, residuals=1)
    relu, stem, bias, joined = map(parts, STEPS)
    assert relu == {**two, 'gelu': False} and stem == {**two, 'stem': 1}
    assert bias == {**two, 'bias': False} and joined == {**two, 'residuals': 1}


def test_a_large_set_is_run_in_both_layouts_without_the_steps(repo, monkeypatch):
    data = repo / 'tests/data/clothing10'
    assert set(on_data(data)['photos'].arms) == set(ARMS)
    monkeypatch.setattr('experiments.workloads.classify.LARGE', 800)
    task = on_data(data)['photos']
    assert len(task.seeds) == 5 and {ARMS[arm][0] for arm in task.arms} == {ONE, TWO}


def found_with(task: str = '', arm: str = '', **changes: object) -> Found:
    """Results in which every direction is as claimed, with a small noise, but for one arm of a task."""
    noise, results = random.Random(0), {}
    for seed in range(5):
        for name, (layout, mixer) in ARMS.items():
            gain = 0 if mixer != GATE else 10 if layout == TWO else 5
            row = dict(top1=50 + gain + noise.random(), parameters=100, majority=20.0, cpu_seconds=1.0)
            results[Job('photos', name, seed)] = dict(**row, tested='1,141 photos in 5 folds')
        for name in DETECTOR_MIXERS:
            results[Job('detect', name, seed)] = dict(ap50=(0.6 if name == GATE else 0.5) + noise.random() / 100)
        errors = {'agg': 0.1, 'mean token': 0.4, 'gate, 1 + rho': 0.5, 'gate, sigmoid': 0.5, 'the token itself': 0.6}
        errors = {name: error + noise.random() / 100 for name, error in errors.items()}
        for kind in EXACT:
            rank = 0.9 + noise.random() / 100
            results[Job('approximate', kind, seed)] = dict(error=dict(errors), cosine=dict(errors), rank=rank)
        for layer in LAYERS:
            results[Job('slope', layer, seed)] = dict(exponent=1 + noise.random() / 100)
    for job, row in results.items():
        if (job.task, job.arm) == (task, arm):
            for key, value in changes.items():
                row[key] = {**row[key], **value} if isinstance(value, dict) else value + noise.random() / 100
    return Found(results)


def jobs(found: Found) -> list[tuple[Job, dict]]:
    """The results, job by job."""
    return [
        (Job(task, arm, seed), row)
        for task, arms in found.results.items()
        for arm, seeds in arms.items()
        for seed, row in seeds.items()
    ]


def verdicts(found: Found) -> list[str]:
    return [to_json(claim)['verdict'] for claim in claims(found)]


def test_claims_hold_where_every_direction_is_right():
    assert verdicts(found_with()) == ['holds'] * 13


@pytest.mark.parametrize(
    ('place', 'task', 'arm', 'changes'),
    [
        (0, 'photos', arm_of(ONE, AGG), dict(parameters=101)),
        (1, 'slope', GATE, dict(exponent=2)),
        (2, 'approximate', EXACT[0], dict(error=dict(agg=0.5))),
        (3, 'approximate', EXACT[1], dict(error={'gate, 1 + rho': 0.7})),
        (4, 'photos', arm_of(ONE, NONE), dict(top1=57)),
        (5, 'photos', arm_of(ONE, SGE), dict(top1=70)),
        (6, 'photos', arm_of(ONE, MHSA), dict(top1=70)),
        (8, 'photos', arm_of(TWO, SIMAM), dict(top1=70)),
        (9, 'photos', arm_of(TWO, MHSA), dict(top1=70)),
        (10, 'photos', arm_of(ONE, NONE), dict(top1=40)),
        *((11, 'photos', arm_of(step, NONE), dict(top1=40)) for step in STEPS),
        (12, 'detect', NONE, dict(ap50=0.7)),
    ],
)
def test_claims_fail_where_a_direction_is_wrong(place, task, arm, changes):
    found = verdicts(found_with(task, arm, **changes))
    assert found[place] == 'does not hold' and found.count('holds') == 12


def test_an_undecided_step_says_how_many_seeds_would_decide():
    found = found_with()
    for step in STEPS:
        for seed, row in found.results['photos'][arm_of(step, NONE)].items():
            row['top1'] -= 4.5 * (seed % 3)  # what the gate loses by it then differs from seed to seed
    claim = to_json(part_claims(found)[1])
    assert claim['verdict'] == 'undecided' and len(claim['judged']) == len(STEPS)
    assert all(entry['n'] < entry['needed'] < 1000 for entry in claim['judged'])


def test_claims_of_tasks_that_were_not_run_have_no_values():
    part = Found({job: row for job, row in jobs(found_with()) if job.task == 'photos'})
    empty = [claim for claim in map(to_json, claims(part)) if not all(one['values'] for one in claim['judged'])]
    assert len(empty) == 4 and not any(arm['values'] for claim in empty for arm in claim['arms'])


@pytest.fixture
def benchmark():
    """Return the module; it needs timm and ONNX Runtime."""
    pytest.importorskip('timm')
    pytest.importorskip('onnxruntime')
    from experiments.spsa import benchmark

    return benchmark


def test_fused_attention_is_explicit_attention(benchmark):
    x = torch.randn(2, 64, 4, 5)
    t = benchmark.tokens(x)
    expected = ((t @ t.transpose(-1, -2) / 4).softmax(-1) @ t).transpose(-1, -2).reshape(x.shape)
    torch.testing.assert_close(benchmark.attention(x, benchmark.HEADS), expected)


def test_one_pass_is_the_gate(benchmark):
    x = torch.randn(2, 64, 4, 5)
    torch.testing.assert_close(
        benchmark.one_pass_gate(x), benchmark.spsa_gate(x, benchmark.HEADS), atol=1e-4, rtol=1e-4
    )


def test_bounds_take_the_fastest_of_the_class(benchmark):
    arms = {'spsanet_xs': 2.0, 'mobilevit_xs': 3.0, 'edgenext_x_small': 1.0, 'efficientvit_m0': 0.5}
    measured = {'spsanet_xs, ONNX Runtime': {name: dict(seconds=seconds) for name, seconds in arms.items()}}
    (bound,) = benchmark.network_bounds(measured)
    assert bound.value == 2 and bound.to_json()['verdict'] == 'does not hold' and 'edgenext' in bound.what
