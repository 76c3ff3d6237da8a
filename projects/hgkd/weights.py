"""Files of weights, read without running code from them, and put into a network without leaving holes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

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


def load_strictly(module: nn.Module, weights: dict[str, Tensor], source: str, prefix: str | None = None) -> None:
    """Fill every parameter and buffer of a module; weights that it has no place for are named in the log.

    Args:
        module: To fill.
        weights: By name.
        source: Where they come from, for messages.
        prefix: Only weights that start with it, which is cut off. None: ``'backbone.'`` or ``'module.'`` if the names
            of the module are found only behind it, else ``''``.

    Raises:
        ValueError: A weight is missing or has another shape.
    """
    expected = module.state_dict()
    if prefix is None:
        prefix = max(
            ('', 'backbone.', 'module.', 'module.backbone.'), key=lambda p: sum(p + key in weights for key in expected)
        )
    found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    missing = [key for key in expected if key not in found]
    # The position embedding of mmpretrain's ViTs is resized while it is loaded.
    wrong = [
        f'{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}'
        for key, value in expected.items()
        if key in found
        and found[key].shape != value.shape
        and not key.endswith(('pos_embed', 'relative_position_index', 'bias_table'))
    ]
    if missing or wrong:
        raise ValueError(
            f'{source} does not fill a {type(module).__name__} (names taken behind the prefix {prefix!r}): '
            f'{len(missing)} weights are missing, as {missing[:5]}; {len(wrong)} have another shape, as {wrong[:3]}'
        )
    unused = [key for key in weights if key.removeprefix(prefix) not in expected or not key.startswith(prefix)]
    if unused:
        print_log(f'{source}: {len(unused)} weights are not used, as {unused[:5]}', logger='current')
    module.load_state_dict({key: found[key] for key in expected}, strict=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError('reading .safetensors needs `pip install safetensors`') from error
    return load_file(path)
