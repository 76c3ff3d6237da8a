"""What the scripts in tools/claims and tools/benchmarks share: where a number was measured, and how it is written."""

import datetime
import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch

from mmplugins.utils.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    'torch', 'mmcv', 'mmengine', 'mmdet', 'onedl-mmcv', 'onedl-mmengine', 'onedl-mmdetection', 'onedl-mmpretrain',
    'onedl-mmrotate', 'numpy', 'scipy',
)  # fmt: skip


def machine() -> str:
    """Return the processor and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').is_file():
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        name = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{name}, {cores} cores'


def versions(*more: str) -> dict[str, str]:
    """Return the versions of Python, of the hosts that are installed, and of the packages in ``more``."""
    found = {'python': platform.python_version()}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def origin(seconds: float, *more: str) -> dict:
    """Return the fields that every result carries: command, seconds, machine, versions, date."""
    script = Path(sys.argv[0]).resolve()
    script = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    command = shlex.join(['python', str(script), *sys.argv[1:]])
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return dict(
        command=command, seconds=round(seconds), machine=machine(), versions=versions(*more), date=today
    )  # fmt: skip


def write_json(path: Path, data: object) -> None:
    """Write JSON; whoever reads ``path`` meanwhile sees the old file or the whole new one."""
    write_text(path, json.dumps(data, indent=1) + '\n')


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a markdown table."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(str(cell) for cell in line) + ' |' for line in lines)


def resident(key: str) -> int:
    """Bytes of ``VmRSS`` (now) or ``VmHWM`` (most ever) of this process; Linux only."""
    return int(re.search(rf'{key}:\s+(\d+)', Path('/proc/self/status').read_text())[1]) * 1024


def seconds_of(function: Callable, device: str) -> float:
    """Processor time of a call, or on CUDA the time between two events."""
    if device == 'cpu':
        start = time.process_time()
        function()
        return time.process_time() - start
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    function()
    events[1].record()
    torch.cuda.synchronize()
    return events[0].elapsed_time(events[1]) / 1000


def interleaved(arms: dict[str, Callable], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each arm; the arms take turns."""
    times = [{name: seconds_of(function, device) for name, function in arms.items()} for _ in range(repeats)]
    return {name: median(run[name] for run in times) for name in arms}
