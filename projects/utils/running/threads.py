"""Threads of a process on a CPU that others use too."""

from __future__ import annotations

import os
from logging import Logger


def wait_politely() -> None:
    """Make threads that wait for each other sleep soon; to be called before torch is imported.

    By default they look for work for milliseconds, and on a shared core they take it from whoever they wait for. An
    iteration of the small METR on two cores: alone 0.45 s by default and 0.45 s so; beside three other processes 7.4 to
    8.7 s and 1.7 s; beside twelve more than 25 s and 6 to 10 s. To sleep at once costs 0.53 s alone.
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
