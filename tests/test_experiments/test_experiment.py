"""A whole run: what it writes, and that results of other data are not taken for its own."""

import json

import pytest

from experiments.frame.claims import Claim
from experiments.frame.experiment import Experiment, build_parser, keep_older, run
from experiments.frame.lock import locked
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
        tiers=dict(cheap=['task/theirs']),
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


def test_other_data_have_tasks_of_their_own(folders):
    """In the place of all others: what does not depend on the data is not run again."""
    experiment = Experiment(
        tasks=dict(task=Task(measure, ('ours',), (0, 1)), fixed=Task(measure, ('alone',))),
        claims=lambda found: [Claim('Measured', 'ours', '', [], [found.row('task', 'ours', 'value', 'value')])],
        data=folders / 'small',
        on_data=lambda folder: dict(task=Task(measure, ('ours',), tuple(range(int((folder / 'number').read_text()))))),
    )
    options = ['any', '--processes', '1', '--work-dir', str(folders / 'work'), '--out', str(folders / 'out')]
    run(experiment, build_parser().parse_args([*options, '--data', str(folders / 'large')]))
    record = json.loads((folders / 'out/claims.json').read_text())
    (claim,) = record['claims']
    assert '--seeds' not in record['command']  # five are what these data have
    assert len(claim['arms'][0]['values']) == 5 and not list((folders / 'work').rglob('alone'))


def test_missing_data_are_named(start, folders):
    with pytest.raises(SystemExit, match='nowhere does not exist'):
        start('--data', folders / 'nowhere')


def test_cost_alone(start):
    with pytest.raises(SystemExit, match='one seed takes 2.0 minutes on 1 processes, all 4.0'):
        start('--budget', 0)


def test_chosen_arms_and_those_of_earlier_runs_count(start, folders, capsys):
    start('--only', 'cheap', '--out', folders / 'part')
    assert json.loads((folders / 'part/claims.json').read_text())['claims'] == []  # nothing to compare it with
    start('--only', 'task/ours', '--out', folders / 'all')
    assert means(folders / 'all') == [2.05, 1.05] and '4 jobs, 2 of them done before' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='no task/others; there are cheap, task, task/ours, task/theirs'):
        start('--only', 'task/others')


def test_a_claim_for_which_nothing_was_run_keeps_its_older_entry_if_there_is_one():
    def entry(text, mean, **values):
        return dict(claim=text, arms=[dict(mean=mean, values=values)], judged=[])

    new = [entry('run anew', 1.0, **{'0': 1.0}), entry('not run', None), entry('never run', None)]
    assert keep_older(new, dict(claims=[])) == new[:1]
    earlier = dict(date='2026-01-02', claims=[entry('run anew', 0.5), entry('not run', 0.5)])
    assert keep_older(new, earlier) == [new[0], dict(older='2026-01-02', **entry('not run', 0.5))]
    half = dict(new[1], arms=[dict(mean=1.0, values={'0': 1.0}), dict(mean=None, values={})])
    assert keep_older([half], earlier)[0]['older'] == '2026-01-02'
    # The date is that of the first record, however often others are run.
    assert keep_older(new, dict(date='2026-02-02', claims=keep_older(new, earlier)))[1]['older'] == '2026-01-02'


def test_a_record_is_extended_where_nothing_of_its_run_is_left(start, folders):
    """As on another machine: what the record has of single jobs counts, whatever seeds are asked for."""
    start('--out', folders / 'out')
    (folders / 'small/number').write_text('7')  # what is run again would show it
    start('--out', folders / 'out', '--work-dir', folders / 'other', '--extend', '--only', 'task/ours', '--seeds', 4, 3)
    (claim,) = json.loads((folders / 'out/claims.json').read_text())['claims']
    ours, theirs = (arm['values'] for arm in claim['arms'])
    assert ours == {'0': 2.0, '1': 2.1, '3': 8.3, '4': 8.4} and theirs == {'0': 1.0, '1': 1.1}
    assert claim['judged'][0]['values'] == {'0': 1.0, '1': 1.0}


def test_seeds_that_are_added_in_the_same_folder_count_with_the_earlier_ones(start, folders, capsys):
    """Or an undecided claim could be judged by fresh seeds, as if nobody had looked."""
    start('--out', folders / 'out')
    start('--out', folders / 'out', '--seeds', 4)
    record = json.loads((folders / 'out/claims.json').read_text())
    assert list(record['claims'][0]['arms'][0]['values']) == ['0', '1', '4']
    assert record['command'].endswith('any --seeds 0 1 4')
    capsys.readouterr()
    start('--out', folders / 'out', '--work-dir', folders / 'other')
    assert '2 jobs of the record are of other seeds and will leave it' in capsys.readouterr().out


def test_one_run_at_a_time_works_in_a_folder(start, folders):
    with locked(folders / 'work'), pytest.raises(SystemExit, match='another run works in .*work'):
        start('--out', folders / 'out')
    start('--out', folders / 'out')


def test_whoever_extends_a_record_is_told_of_which_commits_it_is(start, folders, capsys):
    start('--out', folders / 'out')
    path = folders / 'out/jobs.json'
    jobs = json.loads(path.read_text())
    jobs[0]['commit'] = 'abc1234'
    del jobs[1]['commit'], jobs[2:]
    path.write_text(json.dumps(jobs))
    start('--out', folders / 'out', '--work-dir', folders / 'other', '--extend')
    assert '2 jobs of the record count as they are, of commit abc1234, an unknown one' in capsys.readouterr().out


def test_whoever_repeats_a_claim_runs_it(start, folders):
    start('--out', folders / 'out')
    (folders / 'small/number').write_text('7')
    start('--out', folders / 'out', '--work-dir', folders / 'other')
    assert means(folders / 'out') == [8.05, 7.05]
