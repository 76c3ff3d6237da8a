"""Threads of a process on a CPU that others use too."""

from __future__ import annotations

import os
from logging import Logger


def wait_politely() -> None:
    """Make threads that wait for each other sleep soon; to be called before torch is imported.

    By default they look for work for milliseconds, and on a shared core they take it from whoever they wait for. An
    iteration of a small network on two cores, beside seven other processes: 7.4 s by default, 1.5 to 2.3 s so; alone
    0.49 and 0.52. To sleep at once costs more: 200 tiny operations alone take 3.5 ms by default, 4.0 so, and 13.0 then.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', '10000')


def warn_if_busy(logger: Logger) -> None:
    """Say once, before training, that other processes use the machine, and what to set."""
    load, cores = os.getloadavg()[0], os.cpu_count()
    if load > cores and os.environ.get('OMP_NUM_THREADS') != '1':
        logger.warning(
            f'The machine is busy: {load:.0f} processes want its {cores} cores. A process of one thread waits for no '
            'other: OMP_NUM_THREADS=1, and num_workers=0 for the data loaders.'
        )
