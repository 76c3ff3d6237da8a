"""What a record keeps of single jobs."""

from experiments.frame.record import read_jobs, restore, write_jobs
from experiments.frame.tasks import Context, Job, Task, run_all

FIRST, SECOND, OTHER = Job('task', 'a, b', 0), Job('task', 'a, b', 1), Job('task', 'c', 0)


def start_or_go_on(arm, seed, context):
    if arm == 'tuned':
        return dict(start=(context.of('base').folder / 'weights').read_text())
    (context.folder / 'weights').write_text(f'of seed {seed}')
    return dict(start=None)


def test_results_come_back(tmp_path):
    results = {FIRST: dict(value=0.1, curve=[1, 2], seconds=3.0), OTHER: dict(value=None, seconds=1.0)}
    write_jobs(results, tmp_path / 'jobs.json')
    assert read_jobs(tmp_path / 'jobs.json') == results
    assert len((tmp_path / 'jobs.json').read_text().splitlines()) == 4  # a line each, which a diff shows


def test_no_record_is_an_empty_one(tmp_path):
    assert read_jobs(tmp_path / 'jobs.json') == {}


def test_arms_that_were_not_run_stay_and_others_are_replaced_whole(tmp_path):
    path = tmp_path / 'jobs.json'
    write_jobs({FIRST: dict(value=1), SECOND: dict(value=2), OTHER: dict(value=3)}, path)
    write_jobs({FIRST: dict(value=4)}, path)
    assert read_jobs(path) == {OTHER: dict(value=3), FIRST: dict(value=4)}


def test_seeds_that_another_run_has_added_stay_where_a_record_is_extended(tmp_path):
    path = tmp_path / 'jobs.json'
    write_jobs({FIRST: dict(value=1), OTHER: dict(value=3)}, path)
    found = write_jobs({SECOND: dict(value=2), OTHER: dict(value=4)}, path, extend=True)
    assert read_jobs(path) == found == {FIRST: dict(value=1), OTHER: dict(value=4), SECOND: dict(value=2)}


def test_what_the_work_folder_has_is_not_replaced(tmp_path):
    FIRST.folder(tmp_path).mkdir(parents=True)
    (FIRST.folder(tmp_path) / 'result.json').write_text('{"value": 5}')
    (SECOND.folder(tmp_path)).mkdir(parents=True)
    (SECOND.folder(tmp_path) / 'half').touch()  # of a job that was cut off
    restore({FIRST: dict(value=1), SECOND: dict(value=2)}, tmp_path)
    assert (FIRST.folder(tmp_path) / 'result.json').read_text() == '{"value": 5}'
    assert SECOND.done(tmp_path) and SECOND.restored(tmp_path)


def test_an_arm_is_run_again_if_another_starts_from_its_weights(tmp_path):
    """A record has no weights."""
    tasks = dict(task=Task(start_or_go_on, ('base', 'tuned'), (0, 1), after=dict(tuned='base')))
    base, tuned = Job('task', 'base', 0), Job('task', 'tuned', 0)
    restore({base: dict(start='recorded')}, tmp_path)
    context = Context(work=tmp_path, folder=tmp_path, data=None, quick=False)
    assert run_all([base], tasks, context, 1)[base]['start'] == 'recorded'
    found = run_all([base, tuned], tasks, context, 1)
    assert found[base]['start'] is None and found[tuned]['start'] == 'of seed 0'
