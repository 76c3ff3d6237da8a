"""What the scripts conclude from rows and times, and that the peer of the benchmark computes the same gradient."""

import importlib
import random

import pytest
from PIL import Image


@pytest.fixture
def tools(monkeypatch, repo):
    """Import a module of tools/ as the scripts do."""

    def load(folder: str, name: str):
        monkeypatch.syspath_prepend(str(repo / 'tools'))
        monkeypatch.syspath_prepend(str(repo / 'tools' / folder))
        monkeypatch.delitem(__import__('sys').modules, name.split('.')[0], raising=False)
        return importlib.import_module(name)

    return load


@pytest.fixture
def rows(tools):
    """Rows in which every direction is as claimed: values by shots, weight and steps, with a small noise."""
    arms = tools('claims', 'its_maml_parts.arms').ARMS
    noise = random.Random(0)

    def row(arm: dict, seed: int) -> dict:
        shots, weight, steps = arm['train_shots'], arm['reg_weight'], arm['inner_steps']
        return dict(
            seed=seed,
            clean=60 + (2 + weight) * shots - 5 * weight - abs(steps - 2) * (5 - shots) + noise.random() / 10,
            pgd10=20 + 20 * weight + shots - abs(steps - 2) * (5 - shots) + noise.random() / 10,
            id_pca90=30 + shots - 5 * weight,
            id_noise=20 + shots,
            seconds=10 * arm.get('longer', 1),
        )

    return {
        data: {name: [row(arm, seed) for seed in range(3)] for name, arm in of.items()} for data, of in arms.items()
    }


def answers(tools, rows) -> dict[str, bool | None]:
    return {claim['claim']: claim['holds'] for claim in tools('claims', 'its_maml_parts.report').make_claims(rows)}


def test_claims_hold_where_every_direction_is_right(tools, rows):
    found = answers(tools, rows)
    assert len(found) == 9 and all(found.values()), found


@pytest.mark.parametrize(
    ('arm', 'metric', 'shift', 'claim'),
    [
        ('ITS-MAML, 5 shots', 'clean', -50, 'More training shots raise clean accuracy'),
        ('ITS-MAML, 5 shots', 'pgd10', -50, 'More training shots lose little robustness'),
        ('R-MAML, 1 shot', 'id_pca90', 50, 'The adversarial term lowers the intrinsic dimension of clean features'),
        ('R-MAML, 1 shot, 1.35 times the updates', 'clean', 50, 'It is not a matter of cost (ours to ask)'),
        (
            'ITS-MAML, 5 shots, 5 steps',
            'clean',
            -50,
            'More training shots make meta-training less sensitive to the number of inner steps',
        ),
    ],
)
def test_claims_fail_where_a_direction_is_wrong(tools, rows, arm, metric, shift, claim):
    for row in rows['omniglot'][arm]:
        row[metric] += shift
    assert answers(tools, rows)[claim] is False


def test_one_seed_against_two_is_undecided(tools, rows):
    for row, plain in zip(rows['omniglot']['ITS-MAML, 5 shots'], rows['omniglot']['R-MAML, 1 shot'], strict=True):
        row['clean'] = plain['clean'] + (-1 if row['seed'] == 0 else 10)
    assert answers(tools, rows)['More training shots raise clean accuracy'] is None


def test_figure_is_drawn(tools, rows, tmp_path):
    tools('claims', 'its_maml_parts.report').draw(rows, tmp_path / 'claims.png')
    assert Image.open(tmp_path / 'claims.png').width > 1000


@pytest.mark.slow
def test_peer_of_the_benchmark_computes_the_same_gradient(tools):
    found = tools('benchmarks', 'its_maml').largest_difference()
    assert found.pop('loop') == 0
    assert max(found.values()) < 1e-6 and set(found) == {'vmap', 'vmap_matmul', 'func'}


def test_table_says_where_the_goal_is_missed(tools):
    cell = dict(loop=dict(seconds=3.0, mib=10.0), vmap=dict(seconds=2.0, mib=20.0))
    bench = tools('benchmarks', 'its_maml')
    results = dict(
        devices=dict(cpu={'net, 16 tasks': cell, 'net, 4 tasks': cell, 'wide, 16 tasks': cell}),
        difference=dict(loop=0.0, vmap=1e-12),
        processes={'net, 16 tasks': {1: 4.0, 2: 2.5}, 'large, 16 tasks': {1: 4.0, 2: 3.2}},
        cores=2,
    )
    results['goal'] = bench.goal_of(results, 16)
    text = bench.table_of(results)
    assert '| 3.00 s, 10 | 2.00 s (1.50), 20 | – | – |' in text
    assert '| net, 16 tasks | 4.00 s | 2.50 s | 1.60 |' in text
    assert '| cpu: net, 16 tasks | loop over 2 processes | 1.60 | ≥ 1.5 |' in text
    assert '| cpu: wide, 16 tasks | vmap of the forward pass | 1.50 | ≥ 1.5 |' in text
    assert '| cpu: large, 16 tasks | loop over 2 processes | 1.25 | ≥ 1.5, **not reached** |' in text
    assert 'cpu: net, 4 tasks' not in text
