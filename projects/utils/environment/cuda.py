"""GPU, driver, torch's CUDA and the CUDA compiler: whether they fit, before anything takes long.

``FORCE_CUDA`` decides as in mmcv's build, except that 0 is respected: 1 builds the ops for the GPU, 0 for the CPU
only. Unset, they are built for the GPU where there is one.
"""

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from . import Problem

# CUDA of the torch that requirements/torch.txt brings from PyPI.
DEFAULT_CUDA = '13.0'
# Major version of CUDA -> oldest driver on Linux (NVIDIA, "CUDA Compatibility", minor version compatibility).
OLDEST_DRIVER = {13: 580, 12: 525, 11: 450}
FOR_THE_CPU = 'To use the CPU only: FORCE_CUDA=0.'


def major(number: str) -> int:
    """Return 12 for '12.8'."""
    return int(number.split('.')[0])


def output_of(*command: str) -> str:
    """Return what a command prints; nothing if it is absent, fails or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ''


def gpu() -> tuple[str, str] | None:
    """Return (name, driver) of the first NVIDIA GPU, None without one."""
    lines = output_of('nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader').splitlines()
    name, _, driver = lines[0].rpartition(', ') if lines else ('', '', '')
    return (name, driver) if name and driver[:1].isdigit() else None


def torch_cuda() -> str | None:
    """Return the CUDA version that torch was built with; None: built without, or does not load."""
    try:
        return importlib.import_module('torch').version.cuda
    except (ImportError, OSError):  # the second: a library of CUDA is missing
        return None


def has_torch() -> bool:
    """Tell whether torch is installed."""
    return importlib.util.find_spec('torch') is not None


def wanted_cuda() -> str | None:
    """Return the CUDA version of the installed torch, or of the one that will be installed."""
    return torch_cuda() if has_torch() else DEFAULT_CUDA


def wants_cuda_ops() -> bool:
    """Tell whether mmcv's ops are to be built for the GPU."""
    forced = os.environ.get('FORCE_CUDA')
    return forced == '1' if forced in ('0', '1') else gpu() is not None and wanted_cuda() is not None


def find_nvcc() -> Path | None:
    """Return the CUDA compiler that torch's build would use."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    found = None if home else shutil.which('nvcc')
    nvcc = Path(found or Path(home or '/usr/local/cuda', 'bin/nvcc'))
    return nvcc if nvcc.is_file() else None


def driver_problems() -> list[Problem]:
    """Return why torch cannot use the GPU that is there."""
    there = gpu()
    if not there or os.environ.get('FORCE_CUDA') == '0':
        return []
    (name, driver), cuda = there, wanted_cuda()
    if cuda is None:
        cure = f'pip uninstall -y torch torchvision. {pair_for(major(driver))} {FOR_THE_CPU}'
        return [Problem(f'torch is a build without CUDA, so that {name} is not used', cure)]
    oldest = OLDEST_DRIVER.get(major(cuda), 0)
    if major(driver) < oldest:
        what = f'{name} has driver {driver}, but torch for CUDA {cuda} needs {oldest} or newer and would use the CPU'
        return [Problem(what, f'{pair_for(major(driver))} {FOR_THE_CPU}')]
    return []


def pair_for(driver: int) -> str:
    """Return the sentence that brings a torch for a driver."""
    if driver >= OLDEST_DRIVER[13]:
        return 'Then install the pair of requirements/torch.txt: pip install torch==2.11.0 torchvision==0.26.0.'
    if driver >= OLDEST_DRIVER[12]:
        return 'Install a torch for CUDA 12, which is then kept: pip install torch==2.10.0 torchvision==0.25.0.'
    return 'Update the driver.'


def build_problems() -> list[Problem]:
    """Return why mmcv's ops cannot be compiled for the GPU; nothing if they need not be."""
    if not wants_cuda_ops():
        return []
    cuda, nvcc = wanted_cuda(), find_nvcc()
    if cuda is None:
        cure = f'pip uninstall -y torch torchvision. {pair_for(OLDEST_DRIVER[13])}'
        return [Problem('FORCE_CUDA=1, but the installed torch is a build without CUDA', cure)]
    if nvcc is None:
        what = 'no CUDA compiler (nvcc): the ops of mmcv cannot be built for the GPU'
        cure = (
            f'Install the CUDA toolkit {major(cuda)} and set CUDA_HOME (clusters: module load cuda), or use one of the '
            f'pairs of README.md that have ready wheels. {FOR_THE_CPU}'
        )
        return [Problem(what, cure)]
    release = re.search(r'release (\d+\.\d+)', output_of(str(nvcc), '--version'))
    if release and major(release[1]) != major(cuda):
        what = f'{nvcc} is of CUDA {release[1]}, but torch is built for CUDA {cuda}: they do not build together'
        cure = (
            f'Set CUDA_HOME to CUDA {major(cuda)}, or first install a torch for CUDA {major(release[1])}. {FOR_THE_CPU}'
        )
        return [Problem(what, cure)]
    if gpu() is None and not os.environ.get('TORCH_CUDA_ARCH_LIST'):
        what = 'FORCE_CUDA=1 on a machine without a GPU: nothing says for which GPU the ops are to be built'
        return [Problem(what, 'Set TORCH_CUDA_ARCH_LIST: 8.0 for A100, 8.6 for RTX 30, 8.9 for RTX 40, 9.0 for H100.')]
    return []


def ops_problems() -> list[Problem]:
    """Return why mmcv's compiled ops do not run, on the CPU and where wanted on the GPU."""
    compile_them = 'bash tools/install.sh compiles them again.'
    try:
        ops = importlib.import_module('mmcv.ops')
    except Exception as error:  # an extension built for another torch fails in many ways
        what = f'the compiled ops of mmcv do not load ({type(error).__name__}: {str(error).splitlines()[0]})'
        return [Problem(what, compile_them)]
    if wants_cuda_ops() and ops.get_compiling_cuda_version() == 'not available':
        return [Problem('the ops of mmcv are compiled for the CPU only, and there is a GPU', compile_them)]
    return []


def jobs() -> int:
    """Return how many files to compile at once: one a core, if each has 2 GiB (mmcv's largest takes that)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return max(1, min(cores, free_memory() // 2**31))


def free_memory() -> int:
    """Return the memory in bytes that the machine or the container has left."""
    limits = [2**40]  # where the system does not say, cores alone decide
    if meminfo := read(Path('/proc/meminfo')):
        limits.append(int(re.search(r'MemAvailable:\s+(\d+)', meminfo)[1]) * 1024)
    group = Path('/sys/fs/cgroup')
    if (most := read(group / 'memory.max').strip()).isdigit():
        limits.append(int(most) - int(read(group / 'memory.current') or 0))
    return min(limits)


def read(path: Path) -> str:
    """Return the text of a file, nothing if it is absent."""
    return path.read_text() if path.is_file() else ''
