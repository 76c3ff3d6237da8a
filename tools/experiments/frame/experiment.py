"""An experiment: tasks, the claims that follow from them, and the command that runs it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments import ROOT
from experiments.frame.claims import Claim, Found, after_looks, to_json
from experiments.frame.figure import draw_claims
from experiments.frame.lock import locked
from experiments.frame.origin import command_of, cores, origin
from experiments.frame.record import read_jobs, restore, write_jobs
from experiments.frame.report import verdict_lines
from experiments.frame.tasks import Context, Task, finished, in_order, jobs_of, minutes_of, run_all, slug, within
from mmplugins.utils.atomic import write_text


@dataclass(frozen=True)
class Experiment:
    """The claims of a plugin.

    Attributes:
        tasks: What is trained and measured, by name.
        claims: From what was found to what is claimed.
        prepare: Makes what all jobs share, once, before they start; must leave alone what is there.
        finish: Writes more than the claims and their figure: ``finish(found, context, folder)``.
        data: Default of ``--data``; None if there is nothing to choose.
        on_data: ``on_data(folder)`` returns what is run where ``--data`` is given, in the place of ``tasks``: what
            depends on the data, at their size.
        packages: Whose versions matter beside those of torch and the hosts.
        tiers: Names for ``--only``: what some of the claims need, as ``task`` or ``task/arm``.
    """

    tasks: Mapping[str, Task]
    claims: Callable[[Found], Sequence[Claim]]
    prepare: Callable[[Context], None] | None = None
    finish: Callable[[Found, Context, Path], None] | None = None
    data: Path | None = None
    on_data: Callable[[Path], Mapping[str, Task]] | None = None
    packages: tuple[str, ...] = ()
    tiers: Mapping[str, Sequence[str]] = field(default_factory=dict)


def build_parser() -> argparse.ArgumentParser:
    """Options of every experiment."""
    parser = argparse.ArgumentParser(
        description='Run the experiments behind the claims of a plugin. Jobs that an earlier run has finished are '
        'kept, so a run that was cut off goes on where it was.'
    )
    parser.add_argument('plugin', help='folder in tools/experiments')
    parser.add_argument('--seeds', type=int, nargs='+', help='in the place of those of the experiment')
    parser.add_argument(
        '--only', nargs='+', metavar='TIER | TASK[/ARM]', help='run these; earlier results of others count'
    )
    parser.add_argument('--budget', type=float, metavar='MINUTES', help='as many seeds as fit; 0 says what they cost')
    parser.add_argument('--data', type=Path, help='another set of the same layout, see the top of the experiment')
    parser.add_argument('--processes', type=int, default=cores(), help='default: one for each core')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/claims/<plugin>')
    parser.add_argument(
        '--out',
        type=Path,
        help='default: projects/<plugin>/results; with --data or --quick the work dir',
    )
    parser.add_argument(
        '--extend', action='store_true', help='what the record has of single jobs counts: only what it lacks is run'
    )
    parser.add_argument('--quick', action='store_true', help='the least that shows that it runs; numbers mean nothing')
    return parser


def keep_older(claims: list[dict], record: Mapping) -> list[dict]:
    """Return claims in which those that lack a value are as in an earlier record, with its date as ``older``.

    A claim of which nothing was ever compared is left out.

    Args:
        claims: As `claims.to_json` returns them.
        record: The earlier one; its ``claims`` may be none.
    """
    earlier = {claim['claim']: {'older': record['date'], **claim} for claim in record['claims']}

    def chosen(claim: dict) -> dict | None:
        if all(one['values'] for one in (*claim['arms'], *claim['judged'])):
            return claim
        if claim['claim'] in earlier:
            return earlier[claim['claim']]
        return claim if any(one['values'] for one in claim['judged'] or claim['arms']) else None

    return [claim for claim in map(chosen, claims) if claim]


def run(experiment: Experiment, args: argparse.Namespace) -> None:
    """Say what it costs, run what is missing, judge, write, draw.

    Raises:
        SystemExit: The budget is too small, ``--data`` is not for this experiment, or ``--only`` names
            what it has not.
    """
    if args.data and experiment.data is None:
        raise SystemExit(f'{args.plugin} makes its data itself: --data has no meaning')
    data = args.data or experiment.data
    if data and not data.is_dir():
        raise SystemExit(f'{data} does not exist: name the folder with --data, see tools/experiments/{args.plugin}')
    work = args.work_dir or ROOT / 'work_dirs/claims' / args.plugin
    # What a quick run finds, or a run on other data, must never be taken for the result of the experiment.
    if args.data:
        work = work / slug(str(data.resolve()).lstrip('/'))
    work = work / 'quick' if args.quick else work
    out = args.out or (work if args.quick or args.data else ROOT / 'projects' / args.plugin / 'results')
    context = Context(work=work, folder=work, data=data, quick=args.quick)
    tasks = experiment.on_data(data) if args.data and experiment.on_data else experiment.tasks
    most = 1 if args.quick else None
    names = {*experiment.tiers, *tasks, *(f'{name}/{arm}' for name, task in tasks.items() for arm in task.arms)}
    if unknown := set(args.only or ()) - names:
        raise SystemExit(f'there is no {", ".join(sorted(unknown))}; there are {", ".join(sorted(names))}')
    only = args.only and [each for name in args.only for each in experiment.tiers.get(name, (name,))]
    jobs_file = out / 'jobs.json'
    recorded = read_jobs(jobs_file) if args.extend else {}
    restore(recorded, work)
    if recorded:
        commits = sorted({job.get('commit') or 'an unknown one' for job in recorded.values()})
        print(f'{len(recorded)} jobs of the record count as they are, of commit {", ".join(commits)}')
    if args.budget is not None:
        most = within(args.budget, tasks, work, args.processes, args.seeds, only)
    known = {(name, arm) for name, task in tasks.items() for arm in task.arms}
    jobs = {*jobs_of(tasks, args.seeds, most, only)}
    jobs |= finished(tasks, work)
    jobs = in_order(jobs | {job for job in recorded if (job.task, job.arm) in known}, tasks)
    arms = {(job.task, job.arm) for job in jobs}
    if lost := sum((job.task, job.arm) in arms for job in {*read_jobs(jobs_file)} - {*jobs}):
        print(f'{lost} jobs of the record are of other seeds and will leave it; --extend keeps them')
    minutes, done = minutes_of(jobs, tasks, work), sum(job.done(work) for job in jobs)
    cost = '' if args.quick else f'; about {minutes:.0f} processor minutes, {minutes / args.processes:.0f} minutes here'
    print(f'{len(jobs)} jobs, {done} of them done before{cost}', flush=True)
    start = time.time()
    with locked(work, f'another run works in {work}: wait for it, or name another --work-dir'):
        if experiment.prepare:
            experiment.prepare(context)
        results = run_all(jobs, tasks, context, args.processes)
    with locked(out):
        kept = write_jobs(results, jobs_file, args.extend)
        if args.extend:
            results = {job: kept[job] for job in in_order([job for job in kept if (job.task, job.arm) in known], tasks)}
        found = Found(results)
        # Of the whole experiment, also of jobs that an earlier run finished.
        seconds = max(time.time() - start, found.seconds() / args.processes)
        write_claims(experiment, words_of(tasks, args, found), context, found, seconds, out)
    print(f'written to {out}; {seconds:.0f} s')


def write_claims(
    experiment: Experiment, words: list[str], context: Context, found: Found, seconds: float, out: Path
) -> None:
    """Judge what was found; write, draw and say it."""
    path = out / 'claims.json'
    earlier = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else dict(claims=[])
    claims = [to_json(after_looks(claim, earlier['claims'])) for claim in experiment.claims(found)]
    claims = keep_older(claims, earlier)
    record = origin(seconds, *experiment.packages) | found.origin()
    record |= dict(command=command_of(words), minutes=found.cost())
    write_text(path, json.dumps(dict(**record, claims=claims), indent=1) + '\n')
    if claims:
        draw_claims(claims, out / 'claims.png')
    if experiment.finish:
        experiment.finish(found, context, out)
    print('\n'.join(verdict_lines(claims)))


def words_of(tasks: Mapping[str, Task], args: argparse.Namespace, found: Found) -> list[str]:
    """Words of the command that runs all of it, whatever part this call has added."""
    words = [args.plugin, *(('--data', str(args.data)) if args.data else ()), *(('--quick',) if args.quick else ())]
    several = {name: task.seeds for name, task in tasks.items() if len(task.seeds) > 1}
    usual = {seed for seeds in several.values() for seed in seeds}
    seeds = {seed for name in several for rows in found.results.get(name, {}).values() for seed in rows}
    if not args.quick and seeds - usual:
        words += ['--seeds', *map(str, sorted(seeds | usual))]
    return words
