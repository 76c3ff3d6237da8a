"""Where a number was measured: command, machine, versions, date."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiments import ROOT

PACKAGES = (
    'torch', 'onedl-mmcv', 'onedl-mmengine', 'onedl-mmdetection', 'onedl-mmpretrain', 'onedl-mmrotate', 'mmcv',
    'mmengine', 'mmdet', 'mmpretrain', 'mmrotate', 'numpy', 'scipy',
)  # fmt: skip


def commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` behind it if files differ; None outside of one."""
    try:
        call = subprocess.run(
            ['git', '-C', str(ROOT), 'describe', '--always', '--exclude=*', '--dirty'], capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    return call.stdout.strip() or None


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def machine() -> str:
    """Return the processor and the number of cores."""
    name = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').is_file():
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        name = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), name)
    return f'{name}, {cores()} cores'


def versions(*more: str) -> dict[str, str]:
    """Return the versions of Python, of the hosts that are installed, and of the packages in ``more``."""
    found = {'python': platform.python_version()}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def today() -> str:
    """Return the date in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def command_of(words: Sequence[str]) -> str:
    """Return a call of this script as a reader would repeat it: a folder of the caller's is left unnamed."""
    script = Path(sys.argv[0]).resolve()
    script = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    named = ['<folder>' if os.path.isabs(word) else word for word in words]
    return shlex.join(['python', str(script), *named]).replace("'<folder>'", '<folder>')


def origin(seconds: float, *more: str) -> dict[str, object]:
    """Return the fields that every result carries."""
    return dict(
        command=command_of(sys.argv[1:]),
        seconds=round(seconds),
        machine=machine(),
        versions=versions(*more),
        date=today(),
    )
