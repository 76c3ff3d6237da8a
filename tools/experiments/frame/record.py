"""Results of single jobs beside the claims, so that another machine can add seeds or arms to a record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from experiments.frame.tasks import RESULT, Job
from mmplugins.utils.atomic import write_text


def write_jobs(results: Mapping[Job, dict], path: Path, extend: bool = False) -> dict[Job, dict]:
    """Keep results of single jobs, a line each; those of arms that were not run this time stay.

    Args:
        results: As `run_all` returns them.
        path: JSON file.
        extend: Other seeds of these arms stay too, such as another run has added while this one went on.

    Returns:
        All that the file has now.
    """
    arms = {(job.task, job.arm) for job in results}
    kept = {job: found for job, found in read_jobs(path).items() if extend or (job.task, job.arm) not in arms}
    kept |= results
    rows = [json.dumps(asdict(job) | found) for job, found in kept.items()]
    write_text(path, '[\n' + ',\n'.join(rows) + '\n]\n')
    return kept


def read_jobs(path: Path) -> dict[Job, dict]:
    """Return what `write_jobs` kept; nothing if the file is not there."""
    rows = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else []
    return {Job(row.pop('task'), row.pop('arm'), row.pop('seed')): row for row in rows}


def restore(results: Mapping[Job, dict], work: Path) -> None:
    """Make the jobs of a record such that an earlier run has finished, but for those that lie in the work folder."""
    for job, found in results.items():
        if not job.done(work):
            shutil.rmtree(job.folder(work), ignore_errors=True)
            job.folder(work).mkdir(parents=True)
            write_text(job.folder(work) / RESULT, json.dumps(found, indent=1) + '\n')
