"""Weights of a network, from whatever file people publish them in, and into a network without leaving holes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from mmengine.fileio import get_local_path
from torch import Tensor, nn

from .checkpoint import PickledModule, load_without_code

# Where checkpoints keep the weights: mmengine and plain torch, most authors' code, DeepSpeed, DINO.
WRAPPERS = ('state_dict', 'model', 'module', 'teacher')
# Of a network inside a model of mmengine, of one of timm there, of CLIP's image tower.
PREFIXES = ('', 'backbone.', 'backbone.timm_model.', 'timm_model.', 'visual.')


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a state dict to the CPU; see :func:`read_checkpoint`."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """Read a state dict to the CPU, and what stands beside it as ``meta``; no code of a pickle is run.

    Args:
        path: File or address of: a checkpoint of mmengine or of plain torch, also with the weights in one of
            ``WRAPPERS`` and ``module.`` before their names; a whole module (OpenAI's ``encoder.pkl``); a TorchScript
            archive (OpenAI's CLIP); ``.safetensors``; ``.npz``.

    Returns:
        Weights by name; ``meta`` of a checkpoint of mmengine, of any other an empty dict.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: ``.safetensors`` without that package.
        ValueError: It is broken, would run code, or holds no weights.
    """
    with get_local_path(str(path)) as local:
        if not Path(local).is_file():
            raise FileNotFoundError(f'checkpoint not found: {path} (working directory: {Path.cwd()})')
        try:
            content = _read(local, _suffix(str(path)))
        except (ImportError, ValueError):
            raise
        except Exception as error:  # zip, numpy, torch and safetensors have errors of their own, with no common base
            raise ValueError(f'{path} is not a checkpoint that can be read safely: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, not a dict of weights')
    meta = content.get('meta')
    content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    weights = {key.removeprefix('module.'): value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError(f'{path} holds no weights; its keys are {[str(key) for key in content][:8]}')
    return weights, meta if isinstance(meta, dict) else {}


def is_torchscript(path: str | os.PathLike) -> bool:
    """Tell whether a local file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())


def _suffix(path: str) -> str:
    """Return ``.npz`` of a file or an address, also of ``https://…/weights.npz?download=true``."""
    return Path(urlsplit(path).path if '://' in path else path).suffix


def _read(path: str, suffix: str) -> object:
    if suffix == '.npz':
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    if suffix == '.safetensors':
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ImportError('reading .safetensors needs `pip install safetensors`') from error
        return load_file(path)
    if is_torchscript(path):
        return torch.jit.load(path, map_location='cpu').state_dict()
    content = load_without_code(path)
    return content.state_dict() if isinstance(content, PickledModule) else content


def load_strictly(
    module: nn.Module,
    weights: dict[str, Tensor],
    source: str,
    prefix: str | None = None,
    resized: tuple[str, ...] = (),
) -> None:
    """Fill every parameter and buffer of a module; a host's loading would only log what does not fit.

    Args:
        module: To fill.
        weights: By name; those that the module has no place for are left out.
        source: Where they come from, for the message.
        prefix: Only weights that start with it, which is cut off. None: the one of ``PREFIXES`` behind which most of
            the module's names are found.
        resized: Ends of names of weights that the module resizes while it loads them; their shape may differ.

    Raises:
        ValueError: A weight is missing or has another shape.
    """
    if prefix is None:
        prefix = max(PREFIXES, key=lambda prefix: sum(prefix + name in weights for name in module.state_dict()))
    weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    wrong = []
    for name, own in module.state_dict().items():
        found = tuple(weights[name].shape) if name in weights else 'nothing'
        if found == 'nothing' or (found != tuple(own.shape) and not name.endswith(resized)):
            wrong.append(f'{name}: {tuple(own.shape)} expected, {found} found')
    if wrong:
        text = '; '.join(wrong[:3])
        raise ValueError(f'{source} does not fit {type(module).__name__}: {len(wrong)} weights differ ({text}, …)')
    # Not strict, for nothing is missing: mmpretrain's SwinV2 drops tables that it has computed itself.
    module.load_state_dict({name: weights[name] for name in module.state_dict()}, strict=False)


def join_qkv(weights: Mapping[str, Tensor], kinds: Sequence[str] = ('weight',)) -> dict[str, Tensor]:
    """Put the three projections of each attention of transformers' ViTs, rows (D,), into one, rows (3D,).

    Args:
        weights: Names with ``attention.query.weight`` and, beside it, ``key`` and ``value``.
        kinds: What is joined, ``weight`` (D, D), ``bias`` (D,) or both; the rest stays as it is.
    """
    joined = {}
    for name, value in weights.items():
        module, _, kind = name.rpartition('.')
        attention, _, part = module.rpartition('.')
        if kind not in kinds or not attention.endswith('attention') or part not in ('query', 'key', 'value'):
            joined[name] = value
        elif part == 'query':
            parts = [weights[f'{attention}.{each}.{kind}'] for each in ('query', 'key', 'value')]
            joined[f'{attention}.qkv.{kind}'] = torch.cat(parts)
    return joined
