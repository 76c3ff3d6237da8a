"""Checkpoints, read without running code from them."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

# Classes of modules in OpenAI's `encoder.pkl`, a whole module.
MODULES = (
    *(f'dall_e.{name}' for name in ('encoder.Encoder', 'encoder.EncoderBlock', 'utils.Conv2d')),
    *(
        f'torch.nn.modules.{name}'
        for name in ('container.Sequential', 'activation.ReLU', 'pooling.MaxPool2d', 'linear.Identity')
    ),
)


class Discarded:
    """Stands in for whatever a checkpoint holds beside weights: logs, arguments. Nothing of it is run or kept."""

    def __new__(cls, *args, **kwargs) -> Discarded:
        """Take and forget any arguments."""
        return super().__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class PickledModule:
    """Stands in for a class of modules when a whole module is read: keeps its weights, runs nothing."""

    def __new__(cls, *args, **kwargs) -> PickledModule:
        """Take and forget any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)

    def state_dict(self, prefix: str = '') -> dict[str, Tensor]:
        """Return the weights below, by the names that ``nn.Module.state_dict`` would give them."""
        own = {**self.__dict__.get('_parameters', {}), **self.__dict__.get('_buffers', {})}
        found = {prefix + name: value.detach() for name, value in own.items() if value is not None}
        for name, module in self.__dict__.get('_modules', {}).items():
            found.update(module.state_dict(f'{prefix}{name}.'))
        return found


def load_without_code(path: str | os.PathLike) -> object:
    """Read a file of ``torch.save`` to the CPU: tensors, numbers, texts, and containers of them.

    A whole module of the classes in ``MODULES`` comes back as :class:`PickledModule`; the log that mmengine's runner
    keeps in its checkpoints and an ``argparse.Namespace`` come back as empty objects.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is broken, or holds anything else.
    """
    numpy_core = np._core if hasattr(np, '_core') else np.core
    # By the names under which pickle looks for them; `getattr` itself would hand out the attributes of any of them.
    skipped = ('mmengine.logging.history_buffer.HistoryBuffer', 'builtins.getattr', 'argparse.Namespace')
    allowed = [(Discarded, name) for name in skipped] + [(PickledModule, name) for name in MODULES]
    allowed += [np.ndarray, np.dtype, numpy_core.multiarray._reconstruct, numpy_core.multiarray.scalar]
    allowed += [type(np.dtype(kind)) for kind in (np.uint32, np.float64, np.int64)]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, pickle and torch have errors of their own, with no common base
        raise ValueError(f'{path} is not a checkpoint that can be read safely: {error}') from error
