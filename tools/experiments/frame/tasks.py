"""Arms and seeds: what is run, in which order, at what cost, and what earlier runs have left."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from experiments.frame.origin import commit, machine, today
from mmplugins.utils.atomic import write_text

RESULT = 'result.json'


@dataclass(frozen=True)
class Context:
    """Where a job runs.

    Attributes:
        work: Folder of the whole experiment; what `Experiment.prepare` makes lies there.
        folder: Of this job alone, empty at its start.
        data: The larger set of ``--data``, or the experiment's default; None if it has none.
        quick: Do as little as shows that it runs.
    """

    work: Path
    folder: Path
    data: Path | None
    quick: bool

    def of(self, arm: str) -> Context:
        """Context of another arm of the same task and seed, of `Task.after`."""
        seed = self.folder.name
        return replace(self, folder=self.folder.parents[1] / slug(arm) / seed)


@dataclass(frozen=True)
class Task:
    """Arms that are measured alike.

    Attributes:
        run: ``run(arm, seed, context)`` trains or measures an arm and returns what JSON can hold. It runs in a process
            of its own with one thread, so it must be a function of a module.
        arms: Names, in the order of the tables.
        seeds: Default; one seed for what has no noise.
        minutes: Of processor time an arm and seed, or for each arm; what a run is said to cost before it starts.
        after: Arm to the arm that must be finished first, because it starts from its weights.
    """

    run: Callable[[str, int, Context], dict]
    arms: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    minutes: float | Mapping[str, float] = 1.0
    after: Mapping[str, str] = field(default_factory=dict)

    def cost(self, arm: str) -> float:
        """Processor minutes of an arm and seed."""
        return self.minutes[arm] if isinstance(self.minutes, Mapping) else self.minutes


@dataclass(frozen=True)
class Job:
    """An arm of a task with one seed."""

    task: str
    arm: str
    seed: int

    def folder(self, work: Path) -> Path:
        """Where it runs and leaves its result."""
        return work / self.task / slug(self.arm) / str(self.seed)

    def done(self, work: Path) -> bool:
        """Whether an earlier run has finished it."""
        return (self.folder(work) / RESULT).is_file()

    def restored(self, work: Path) -> bool:
        """Whether all that is known of it is its result, and no file that another arm could start from."""
        return [file.name for file in self.folder(work).glob('*')] == [RESULT]


def slug(name: str) -> str:
    """Return a name as a folder: ``'CAE v2, both'`` becomes ``'CAE-v2_both'``."""
    return name.replace(', ', '_').replace(' ', '-').replace('/', '-')


def jobs_of(
    tasks: Mapping[str, Task],
    seeds: Iterable[int] | None = None,
    most: int | None = None,
    only: Iterable[str] | None = None,
) -> list[Job]:
    """All jobs, seed by seed, so that what a budget cuts off is whole seeds.

    Args:
        tasks: By name.
        seeds: In the place of those of the tasks that have more than one.
        most: Of each task at most so many seeds.
        only: Tasks, or arms as ``task/arm``; None for all.
    """
    chosen = {
        name: tuple(seeds if seeds is not None and len(task.seeds) > 1 else task.seeds)[:most]
        for name, task in tasks.items()
    }
    turns = range(max(map(len, chosen.values())))
    return [
        Job(name, arm, chosen[name][turn])
        for turn in turns
        for name, task in tasks.items()
        if turn < len(chosen[name])
        for arm in task.arms
        if only is None or {name, f'{name}/{arm}'} & set(only)
    ]


def in_order(jobs: Iterable[Job], tasks: Mapping[str, Task]) -> list[Job]:
    """Return jobs seed by seed, and of a seed as in the tables."""
    arms = [(name, arm) for name, task in tasks.items() for arm in task.arms]
    return sorted(jobs, key=lambda job: (job.seed, arms.index((job.task, job.arm))))


def finished(tasks: Mapping[str, Task], work: Path) -> set[Job]:
    """Return the jobs, of any seed, that earlier runs have finished."""
    arms = [(name, arm) for name, task in tasks.items() for arm in task.arms]
    results = {arm: Job(*arm, 0).folder(work).parent.glob(f'*/{RESULT}') for arm in arms}
    return {Job(*arm, int(path.parent.name)) for arm, paths in results.items() for path in paths}


def minutes_of(jobs: Iterable[Job], tasks: Mapping[str, Task], work: Path) -> float:
    """Processor minutes of the jobs that no earlier run has finished."""
    return sum(tasks[job.task].cost(job.arm) for job in jobs if not job.done(work))


def within(
    budget: float,
    tasks: Mapping[str, Task],
    work: Path,
    processes: int,
    seeds: Iterable[int] | None,
    only: Iterable[str] | None = None,
) -> int:
    """Return how many seeds fit into a budget of minutes of wall-clock time.

    Raises:
        SystemExit: Not even one seed fits; the message says what one costs.
    """
    most = max(len(task.seeds) for task in tasks.values()) if seeds is None else len(tuple(seeds))
    costs = [minutes_of(jobs_of(tasks, seeds, count, only), tasks, work) / processes for count in range(1, most + 1)]
    fitting = sum(cost <= budget for cost in costs)
    if not fitting:
        raise SystemExit(f'one seed takes {costs[0]:.1f} minutes on {processes} processes, all {costs[-1]:.1f}')
    return fitting


def run_job(job: Job, task: Task, context: Context) -> dict:
    """Run a job, or read what an earlier run found."""
    context = replace(context, folder=job.folder(context.work))
    if job.done(context.work):
        return json.loads((context.folder / RESULT).read_text(encoding='utf-8'))
    shutil.rmtree(context.folder, ignore_errors=True)
    context.folder.mkdir(parents=True)
    torch.set_num_threads(1)
    start, cpu = time.time(), time.process_time()
    found = task.run(job.arm, job.seed, context)
    found.update(seconds=time.time() - start, cpu_seconds=time.process_time() - cpu)
    found.update(date=today(), machine=machine(), commit=commit())
    write_text(context.folder / RESULT, json.dumps(found, indent=1) + '\n')
    print(f'{job.task}, {job.arm}, seed {job.seed}: {found["seconds"]:.0f} s', flush=True)
    return found


def run_chain(chain: list[Job], tasks: Mapping[str, Task], context: Context) -> list[dict]:
    """Run jobs one after another; what a worker process does.

    The first is run again if others start from its weights and a record has brought its result alone.
    """
    first, *others = chain
    if first.restored(context.work) and not all(job.done(context.work) for job in others):
        shutil.rmtree(first.folder(context.work))
    return [run_job(job, tasks[job.task], context) for job in chain]


def end_with_parent() -> None:
    """Let a worker end where the run was killed: it would go on, and a run that is started anew does the same work."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run_all(jobs: list[Job], tasks: Mapping[str, Task], context: Context, processes: int) -> dict[Job, dict]:
    """Run what is missing in several processes, the dear ones first."""
    chains: dict[Job, list[Job]] = {}
    for job in jobs:
        first = tasks[job.task].after.get(job.arm)
        if first is None:
            chains.setdefault(job, []).insert(0, job)
        else:
            chains.setdefault(replace(job, arm=first), []).append(job)
    order = sorted(chains.values(), key=lambda chain: -sum(tasks[job.task].cost(job.arm) for job in chain))
    work = [(chain, tasks, context) for chain in order]
    if processes == 1:
        found = [run_chain(*each) for each in work]  # a process more would import everything again
    else:
        spawn = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(processes, mp_context=spawn, initializer=end_with_parent) as pool:
            found = list(pool.map(run_chain, *zip(*work, strict=True)))
    results = {job: row for chain, rows in zip(order, found, strict=True) for job, row in zip(chain, rows, strict=True)}
    return {job: results[job] for job in jobs}
