"""Arms, seeds, budget, and what is kept of a run that was cut off."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.frame.tasks import Context, Job, Task, jobs_of, minutes_of, run_all, within


def measure(arm, seed, context):
    """Note that it ran; fail for the arm that is to fail."""
    log = context.work / 'log'
    log.write_text((log.read_text() if log.exists() else '') + f'{arm}{seed} ')
    if arm == 'broken' and not (context.work / 'mended').exists():
        raise RuntimeError('cut off')
    return dict(value=seed + len(arm))


# In a file of its own: processes look for it by the name of its module, which a test file has not.
READS_THE_OTHER = """
def reads_the_other(arm, seed, context):
    (context.folder / 'weights').write_text(f'{arm} {seed}')
    return dict(start=(context.of('base').folder / 'weights').read_text() if arm == 'tuned' else None)
"""


# Ends only with its process.
NEVER_ENDS = """
import os, sys, time
from pathlib import Path

from experiments.frame.tasks import Context, Task, jobs_of, run_all


def never_ends(arm, seed, context):
    (context.work / f'pid {os.getpid()}').touch()
    while True:
        time.sleep(0.1)


if __name__ == '__main__':
    work = Path(sys.argv[1])
    from never import never_ends
    tasks = dict(task=Task(never_ends, ('a', 'b')))
    run_all(jobs_of(tasks), tasks, Context(work=work, folder=work, data=None, quick=False), processes=2)
"""


@pytest.fixture
def context(tmp_path):
    return Context(work=tmp_path, folder=tmp_path, data=None, quick=False)


def wait_for(condition) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < 120
        time.sleep(0.1)


TASKS = dict(long=Task(measure, ('a', 'b'), (0, 1, 2), minutes=dict(a=2, b=3)), once=Task(measure, ('c',), minutes=4))


def test_jobs_come_seed_by_seed():
    names = [f'{job.task} {job.arm}{job.seed}' for job in jobs_of(TASKS)]
    assert names == ['long a0', 'long b0', 'once c0', 'long a1', 'long b1', 'long a2', 'long b2']


def test_seeds_of_the_command_line_replace_those_of_what_has_several():
    assert {(job.task, job.seed) for job in jobs_of(TASKS, [7])} == {('long', 7), ('once', 0)}


@pytest.mark.parametrize(('budget', 'seeds'), [(9, 1), (13, 1), (14, 2), (100, 3)])
def test_budget_keeps_whole_seeds(context, budget, seeds):
    assert within(budget, TASKS, context.work, processes=1, seeds=None) == seeds


def test_budget_too_small_says_the_cost(context):
    with pytest.raises(SystemExit, match=r'one seed takes 4\.5 minutes on 2 processes, all 9\.5'):
        within(4, TASKS, context.work, processes=2, seeds=None)


def test_what_is_done_costs_nothing_and_is_not_run_again(context):
    jobs = jobs_of(TASKS, [0])
    first = run_all(jobs, TASKS, context, processes=1)
    assert minutes_of(jobs, TASKS, context.work) == 0
    log = (context.work / 'log').read_text()
    again = run_all(jobs_of(TASKS, [0, 1]), TASKS, context, processes=1)
    assert (context.work / 'log').read_text().removeprefix(log).split() == ['b1', 'a1']  # the dear one first
    assert all(again[job] == first[job] for job in jobs)


def test_a_run_that_was_cut_off_goes_on(context):
    tasks = dict(task=Task(measure, ('good', 'broken'), (0,)))
    with pytest.raises(RuntimeError, match='cut off'):
        run_all(jobs_of(tasks), tasks, context, processes=1)
    (context.work / 'mended').touch()
    found = run_all(jobs_of(tasks), tasks, context, processes=1)
    assert (context.work / 'log').read_text().split() == ['good0', 'broken0', 'broken0']
    assert found[Job('task', 'broken', 0)]['value'] == 6


@pytest.mark.skipif(not Path('/proc/self').exists(), reason='looks for processes in /proc')
def test_workers_end_where_a_run_is_killed(tmp_path, repo):
    (tmp_path / 'never.py').write_text(NEVER_ENDS)
    paths = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), str(repo / 'tools')]))
    run = subprocess.Popen([sys.executable, str(tmp_path / 'never.py'), str(tmp_path)], env=paths)
    wait_for(lambda: len(list(tmp_path.glob('pid *'))) == 2)
    workers = [path.name.split()[1] for path in tmp_path.glob('pid *')]
    run.kill()
    run.wait()
    wait_for(lambda: not any(Path('/proc', worker).exists() for worker in workers))


@pytest.mark.parametrize('processes', [1, 2])
def test_an_arm_that_starts_from_another_runs_behind_it(context, processes, monkeypatch):
    (context.work / 'two_arms.py').write_text(READS_THE_OTHER)
    monkeypatch.syspath_prepend(context.work)
    monkeypatch.delitem(sys.modules, 'two_arms', raising=False)
    run = importlib.import_module('two_arms').reads_the_other
    tasks = dict(task=Task(run, ('tuned', 'base'), (3, 4), after=dict(tuned='base')))
    found = run_all(jobs_of(tasks), tasks, context, processes)
    assert [found[Job('task', 'tuned', seed)]['start'] for seed in (3, 4)] == ['base 3', 'base 4']
    assert list(found) == jobs_of(tasks)
