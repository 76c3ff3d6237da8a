"""Checkpoints, read without running code from them."""

from __future__ import annotations

import os

import numpy as np
import torch


class Discarded:
    """Stands in for whatever a checkpoint holds beside weights: logs, arguments. Nothing of it is run or kept."""

    def __new__(cls, *args, **kwargs) -> Discarded:
        """Take and forget any arguments."""
        return super().__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def load_without_code(path: str | os.PathLike) -> object:
    """Read a file of ``torch.save`` to the CPU: tensors, numbers, texts, and containers of them.

    The log that mmengine's runner keeps in its checkpoints and an ``argparse.Namespace`` come back as empty objects.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is broken, or holds anything else.
    """
    numpy_core = np._core if hasattr(np, '_core') else np.core
    # By the names under which pickle looks for them; `getattr` itself would hand out the attributes of any of them.
    skipped = ('mmengine.logging.history_buffer.HistoryBuffer', 'builtins.getattr', 'argparse.Namespace')
    allowed = [(Discarded, name) for name in skipped]
    allowed += [np.ndarray, np.dtype, numpy_core.multiarray._reconstruct, numpy_core.multiarray.scalar]
    allowed += [type(np.dtype(kind)) for kind in (np.uint32, np.float64, np.int64)]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, pickle and torch have errors of their own, with no common base
        raise ValueError(f'{path} is not a checkpoint that can be read safely: {error}') from error
