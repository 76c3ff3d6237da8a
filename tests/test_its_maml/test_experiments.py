"""What follows from rows and times, and that the arms of the benchmark compute the same gradient."""

import random

import pytest
from PIL import Image

from experiments.frame.benchmark import Options
from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.its_maml import benchmark, masking
from experiments.its_maml.arms import ARMS
from experiments.its_maml.claims import claims
from experiments.its_maml.figure import draw


def found_with(arm: str = '', key: str = '', shift: float = 0.0) -> Found:
    """Rows in which every direction is as claimed, with a small noise, but for one number of an arm on Omniglot."""
    noise, results = random.Random(0), {}
    for data, arms in ARMS.items():
        for name, setting in arms.items():
            shots, weight, steps = setting['train_shots'], setting['reg_weight'], setting['inner_steps']
            for seed in range(3):
                row = dict(
                    clean=60 + (2 + weight) * shots - 5 * weight - abs(steps - 2) * (5 - shots),
                    pgd10=20 + 20 * weight + shots - abs(steps - 2) * (5 - shots),
                    id_pca90=30 + shots - 5 * weight,
                    id_noise=20 + shots,
                    training_seconds=10 * setting.get('longer', 1),
                )
                row['clean'] += 40 * (setting.get('longer', 1) >= 10)
                row = {each: value + noise.random() / 10 for each, value in row.items()}
                found = dict.fromkeys(masking.STRONGER, row['pgd10']) | {
                    'clean': row['clean'],
                    'PGD-10, twice the radius': 5,
                    masking.TRANSFER: row['pgd10'] + 9,
                }
                row['masking'] = {name: value + noise.random() / 10 for name, value in found.items()}
                if data == 'omniglot' and name == arm:
                    row[key] += shift
                results[Job(data, name, seed)] = row
    return Found(results)


def verdicts(found: Found) -> dict[str, str]:
    return {entry['claim']: entry['verdict'] for entry in map(to_json, claims(found))}


def test_claims_hold_where_every_direction_is_right():
    found = verdicts(found_with())
    assert len(found) == 14 and set(found.values()) == {'holds'}, found


@pytest.mark.parametrize(
    ('arm', 'key', 'shift', 'claim'),
    [
        ('ITS-MAML, 5 shots', 'clean', -50, 'More training shots raise clean accuracy'),
        ('ITS-MAML, 5 shots', 'pgd10', -50, 'More training shots lose little robustness'),
        ('R-MAML, 1 shot', 'id_pca90', 50, 'The adversarial term lowers the intrinsic dimension of clean features'),
        ('R-MAML, 1 shot, 1.35 times the updates', 'clean', 50, 'It is not a matter of cost (ours to ask)'),
        (
            'R-MAML, 1 shot, 13.5 times the updates',
            'clean',
            50,
            'More training shots raise clean accuracy where R-MAML is trained to the end (ours to ask)',
        ),
        (
            'ITS-MAML, 5 shots, 5 steps',
            'clean',
            -50,
            'More training shots make meta-training less sensitive to the number of inner steps',
        ),
    ],
)
def test_claims_fail_where_a_direction_is_wrong(arm, key, shift, claim):
    assert verdicts(found_with(arm, key, shift))[claim] == 'does not hold'


def test_figure_is_drawn(tmp_path):
    draw(found_with(), tmp_path / 'shots.png')
    assert Image.open(tmp_path / 'shots.png').width > 1000


@pytest.mark.slow
def test_arms_of_the_benchmark_compute_the_same_gradient(monkeypatch):
    benchmark.check(Options('cpu', True, None, None))
    gradient = benchmark.func_gradient
    monkeypatch.setattr(
        benchmark, 'func_gradient', lambda *args: {name: 1.01 * value for name, value in gradient(*args).items()}
    )
    with pytest.raises(AssertionError, match='torch.func'):
        benchmark.check(Options('cpu', True, None, None))


@pytest.mark.parametrize(('two', 'verdict'), [(2.5, 'holds'), (3.2, 'does not hold')])
def test_bound_on_two_processes(two, verdict, monkeypatch):
    monkeypatch.setattr(benchmark, 'cores', lambda: 2)
    times = {'1 process': dict(seconds=4.0), '2 processes': dict(seconds=two)}
    measured = {f'net, {tasks} tasks, wall-clock time': times for tasks in (4, 16)}
    assert [bound.to_json()['verdict'] for bound in benchmark.bounds(measured)] == [verdict]


def test_one_core_promises_nothing_of_two(monkeypatch):
    monkeypatch.setattr(benchmark, 'cores', lambda: 1)
    assert benchmark.bounds({}) == []
