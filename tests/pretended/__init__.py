"""A GPU that is none: tensors compute on the CPU, say that they are on ``gpu:0``, and complain where CUDA would.

``device`` has the tensors, ``waits`` counts where the CPU would wait for the GPU, ``hosts`` brings the OpenMMLab
packages along, ``jobs`` is what runs there.

A device made in Python cannot be taken back, nor can some functions of torch's that it needs in its own form. So a test
imports no more than this file, and calls it in a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def start(world: Path) -> None:
    """Make this process one that has the device, in the folder ``world``."""
    from . import jobs

    jobs.start(world)


def run(job: str, *args) -> Any:
    """Run a job by its name."""
    from . import jobs

    return getattr(jobs, job)(*args)
