"""Memory of the process, as the system sees it. Not in the paper."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # of malloc.h


def return_freed_memory(threshold: int = 1 << 20) -> bool:
    """Have the C library give freed blocks from ``threshold`` bytes on back to the system at once.

    glibc keeps them to use them again. Backward passes free activations of many sizes in another order than they were
    made, which tears its heap: with recomputed activations the heap grew to more than twice what is in use.

    Returns:
        Whether the C library can be told; only glibc has the switch.
    """
    if sys.platform != 'linux':
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, threshold))
