"""Fixtures for all tests. Shared helpers are fixtures: other packages install a top-level package `tests`."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# For `experiments` and `results`. Last, because `tools/test.py` has the name of a package of Python's.
sys.path.append(str(ROOT / 'tools'))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random state, whichever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope='module', autouse=True)
def default_scope() -> None:
    """Forget the default scope that the tests of another file left: bare names would be looked up in its host."""
    from mmengine.registry import DefaultScope

    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def repo() -> Path:
    """Return the root of the checkout."""
    return ROOT


@pytest.fixture(scope='session')
def run() -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs a command and gives its output, stdout and stderr together, as text.

    ``check`` (default True) makes a failure of the command one of the test, with the output shown.
    """

    def run(*command: str | Path, check: bool = True, env: dict | None = None, **kwargs) -> subprocess.CompletedProcess:
        # `python` of the command is the one that runs the tests; two workers per test must not take every core.
        path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
        env = {**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1', **(env or {})}
        done = subprocess.run(
            [str(part) for part in command],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=kwargs.pop('timeout', 300),
            **kwargs,
        )
        assert not check or done.returncode == 0, done.stdout
        return done

    return run
