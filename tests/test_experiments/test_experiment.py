"""A whole run: what it writes, and that results of other data are not taken for its own."""

import json

import pytest

from experiments.frame.claims import Claim
from experiments.frame.experiment import Experiment, build_parser, run
from experiments.frame.tasks import Task


def measure(arm, seed, context):
    return dict(value=float((context.data / 'number').read_text()) + (arm == 'ours') + seed / 10)


@pytest.fixture
def folders(tmp_path):
    for name, number in (('small', 1), ('large', 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'number').write_text(str(number))
    return tmp_path


@pytest.fixture
def start(folders):
    experiment = Experiment(
        tasks=dict(task=Task(measure, ('ours', 'theirs'), (0, 1))),
        claims=lambda found: [
            Claim('Ours is larger', 'ours', 'above', [found.compare('task', 'ours', 'theirs', 'value', 'value')],
                  found.rows('task', 'value', 'value')),
        ],
        data=folders / 'small',
    )  # fmt: skip
    options = ['any', '--processes', '1', '--work-dir', str(folders / 'work')]
    return lambda *more: run(experiment, build_parser().parse_args([*options, *map(str, more)]))


def means(path):
    (claim,) = json.loads((path / 'claims.json').read_text())['claims']
    return [arm['mean'] for arm in claim['arms']]


def test_results_are_those_of_the_data(start, folders):
    start('--out', folders / 'first')
    start('--data', folders / 'large', '--out', folders / 'second')
    assert means(folders / 'first') == [2.05, 1.05] and means(folders / 'second') == [6.05, 5.05]


@pytest.mark.parametrize('option', ['--quick', '--data'])
def test_shipped_results_are_not_overwritten(start, folders, option):
    start(option, *([folders / 'large'] if option == '--data' else []))
    assert list((folders / 'work').rglob('claims.json'))


def test_missing_data_are_named(start, folders):
    with pytest.raises(SystemExit, match='nowhere does not exist'):
        start('--data', folders / 'nowhere')


def test_cost_alone(start):
    with pytest.raises(SystemExit, match='one seed takes 2.0 minutes on 1 processes, all 4.0'):
        start('--budget', 0)
