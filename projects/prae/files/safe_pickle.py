"""Read pickles of mmdet's ``tools/test.py --out`` without running what else a pickle could contain.

A pickle names functions to call. Here only those can be named that mmdet's ``DumpDetResults`` writes: containers,
numbers, strings, numpy arrays, torch tensors and, as mere holders of tensors, boxes. A tensor's storage is read with
``weights_only=True``, because torch wraps a second pickle in the first.
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

ALLOWED = {
    ('builtins', 'set'),
    ('collections', 'OrderedDict'),
    ('numpy', 'dtype'),
    ('numpy', 'ndarray'),
    ('numpy.core.multiarray', '_reconstruct'),
    ('numpy.core.multiarray', 'scalar'),
    ('numpy._core.multiarray', '_reconstruct'),
    ('numpy._core.multiarray', 'scalar'),
    ('numpy.core.numeric', '_frombuffer'),
    ('numpy._core.numeric', '_frombuffer'),
    ('_codecs', 'encode'),  # bytes in old protocols
    ('torch._utils', '_rebuild_tensor_v2'),
    ('torch', 'Size'),
}


# Classes of boxes; what is in them is taken, what they can do is not needed.
BOXES = {
    ('mmdet.structures.bbox.horizontal_boxes', 'HorizontalBoxes'),
    ('mmrotate.structures.bbox.rotated_boxes', 'RotatedBoxes'),
    ('mmrotate.structures.bbox.quadri_boxes', 'QuadriBoxes'),
}


class Boxes:
    """What is left of an object of such a class: ``tensor``, ``(M, 4)``, ``(M, 5)`` or ``(M, 8)``."""


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows nothing but :data:`ALLOWED`."""

    def find_class(self, module: str, name: str) -> object:
        """Return an allowed class or function.

        Raises:
            ValueError: If it is not allowed.
        """
        if (module, name) == ('torch.storage', '_load_from_bytes'):
            return _load_storage
        if (module, name) in BOXES:
            return Boxes
        if (module, name) not in ALLOWED:
            raise ValueError(f'it names {module}.{name}, which is in no file of mmdet’s tools/test.py --out')
        return super().find_class(module, name)


def _load_storage(data: bytes) -> object:
    """Read the storage of a tensor, as ``torch.storage._load_from_bytes`` does, but without running code."""
    import torch

    try:
        return torch.load(io.BytesIO(data), weights_only=True, map_location='cpu')
    except Exception as error:  # torch's own message says how to run the code in it
        raise ValueError(f'a tensor in it holds more than numbers ({type(error).__name__}); do not open it') from None


def read_pickle(path: str | os.PathLike) -> object:
    """Content of a pickle.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is empty, cut off, no pickle, or names what is not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist')
    if path.stat().st_size == 0:
        raise ValueError(f'{path} is empty')
    try:
        with open(path, 'rb') as file:
            return RestrictedUnpickler(file).load()
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f'{path} is not read: {error or type(error).__name__}') from error
