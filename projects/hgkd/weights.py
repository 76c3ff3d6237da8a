"""Files of weights, read without running code from them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..utils.checkpoint import load_without_code

# Where checkpoints keep the weights: mmengine, MAE's and most authors' code, timm and DINO.
WRAPPERS = ('state_dict', 'model', 'module', 'teacher')


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint: ``.npz`` and ``.safetensors`` of weights, else a file of ``torch.save``.

    Returns:
        ``{'state_dict': {name: Tensor}, 'meta': dict, …}``; ``meta`` is empty if the file has none.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: ``.safetensors`` without that package.
        ValueError: The file is broken, would run code, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint not found: {path} (working directory: {Path.cwd()})')
    try:
        if path.suffix == '.npz':
            with np.load(path, allow_pickle=False) as arrays:
                return dict(state_dict={name: torch.from_numpy(arrays[name]) for name in arrays.files}, meta={})
        if path.suffix == '.safetensors':
            return dict(state_dict=_read_safetensors(path), meta={})
        content = load_without_code(path)
    except (ImportError, ValueError):
        raise
    except Exception as error:  # zip, numpy and safetensors have errors of their own, with no common base
        raise ValueError(f'{path} is not a checkpoint that can be read safely: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, not a dict of weights')
    inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    weights = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError(f'{path} holds no weights; its keys are {list(content)[:8]}')
    return dict(content, state_dict=weights, meta=content.get('meta') or {})


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError('reading .safetensors needs `pip install safetensors`') from error
    return load_file(path)
