"""spconv, made safe for a CPU; its convolutions there are wrong with two threads and have no backward pass.

Facts of spconv 2.3.8, measured. With more than one thread ``scatter_add`` shares two pointers between threads: output
and input gradient are wrong at some sites, others each time. ``indice_conv_backward`` asks for a CUDA stream also on a
CPU, and fails. Nothing of spconv is imported or changed before an engine asks for it.
"""

import functools
import re
from collections.abc import Callable
from importlib.metadata import distributions

import torch
from torch import Tensor

INSTALL = 'pip install "spconv>=2.3.8" (CPU), or spconv-cu126 (CUDA 12.6; see the README for others)'


def load_spconv() -> tuple:
    """Modules ``spconv.pytorch.ops`` and ``spconv.pytorch.functional``, safe on a CPU.

    Raises:
        ImportError: spconv is not installed, or more than one of its wheels is; both say what to do.
    """
    check_wheels([dist.metadata['Name'] or '' for dist in distributions()])
    try:
        from spconv.pytorch import functional, ops
    except ImportError as error:
        raise ImportError(f"backend='spconv' needs spconv: {INSTALL}; or use backend='rows'") from error
    if not hasattr(ops.indice_conv, 'one_thread'):
        ops.indice_conv = one_thread(ops.indice_conv)
        ops.indice_conv_backward = one_thread(ops.indice_conv_backward)
        ops.get_current_stream = no_stream_without_cuda(ops.get_current_stream)
    return ops, functional


def check_wheels(installed: list[str]) -> None:
    """See that at most one distribution brings the package ``spconv``.

    Args:
        installed: Names of the distributions.

    Raises:
        ImportError: Several do; each has overwritten files of the one before.
    """
    names = {re.sub(r'[-_.]+', '-', name).lower() for name in installed}
    wheels = sorted(name for name in names if re.fullmatch(r'spconv(-cu\d+)?', name))
    if len(wheels) > 1:
        raise ImportError(
            f'{" and ".join(wheels)} are installed and share one folder: pip uninstall -y {" ".join(wheels)}, then '
            f'{INSTALL}'
        )


def one_thread(function: Callable) -> Callable:
    """Let a function of spconv run on one thread if the features, its first argument, are on a CPU."""

    @functools.wraps(function)
    def guarded(features: Tensor, *args, **kwargs):
        threads = torch.get_num_threads()
        if features.is_cuda or threads == 1:
            return function(features, *args, **kwargs)
        torch.set_num_threads(1)
        try:
            return function(features, *args, **kwargs)
        finally:
            torch.set_num_threads(threads)

    guarded.one_thread = True
    return guarded


def no_stream_without_cuda(get_current_stream: Callable[[], int]) -> Callable[[], int]:
    """Let spconv's question for the CUDA stream give 0, which it takes for none, where there is no CUDA."""

    @functools.wraps(get_current_stream)
    def stream() -> int:
        return get_current_stream() if torch.cuda.is_available() else 0

    return stream
