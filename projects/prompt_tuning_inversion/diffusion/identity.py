"""Which model it is: a hash of all its files, each read once, or of what a pipeline holds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmplugins.utils.atomic import write_text

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def cache_folder() -> Path:
    """This plugin's part of the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``); it may be absent."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmplugins/prompt_tuning_inversion'


def identity_of(places: Sequence[Path], also: str = '', notes: Path | None = None) -> str:
    """A hash of files: of a diffusers folder configs, tokenizer and every byte of the weights.

    Args:
        places: Files, and folders with all that is in them; what is not there has no part in it.
        also: What else tells models apart.
        notes: File that keeps the hash of each file beside its size and time, so that gigabytes are read once; default:
            ``files.json`` in :func:`cache_folder`. If it cannot be written, they are read each time.
    """
    notes = cache_folder() / 'files.json' if notes is None else notes
    try:
        known = json.loads(notes.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        known = {}
    found, whole = {}, hashlib.sha256(also.encode())
    for path, name in _files(places):
        place, status = str(path.resolve()), path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        old = known.get(place)
        if not old or old[:2] != stamp:
            found[place] = [*stamp, digest_of(path)]
        digest = found.get(place, old)[2]
        whole.update(f'{name}:{digest}\n'.encode())
    if found:
        try:
            write_text(notes, json.dumps({**known, **found}, indent=1) + '\n')
        except OSError:
            pass  # a read-only home: the next run reads the files again
    return whole.hexdigest()


def _files(places: Sequence[Path]) -> list[tuple[Path, str]]:
    """The files in places, each with a name that does not depend on where the place is."""
    found = []
    for place in places:
        paths = [place] if place.is_file() else sorted(path for path in place.rglob('*') if path.is_file())
        found += [(path, path.relative_to(place.parent).as_posix()) for path in paths]
    return found


def identity_of_pipeline(pipeline: DiffusionPipeline) -> str:
    """A hash of the weights, configs and words of a pipeline, as they are now; adapters and their weights included."""
    whole = hashlib.sha256()
    for name, part in sorted(pipeline.components.items()):
        if isinstance(part, torch.nn.Module):
            for key, value in part.state_dict().items():
                whole.update(f'{name}.{key}:{value.dtype}:{tuple(value.shape)}'.encode())
                whole.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            for key, module in part.named_modules():  # layers of peft
                if isinstance(getattr(module, 'scaling', None), dict):
                    whole.update(f'{key}:{module.scaling}:{module.active_adapters}:{module.merged}'.encode())
        elif hasattr(part, 'get_vocab'):
            whole.update(json.dumps([name, part.get_vocab()], sort_keys=True).encode())
        config = getattr(part, 'config', {})  # a dict of diffusers, an object of transformers
        whole.update(f'{name}:{config if isinstance(config, dict) else config.to_dict()}'.encode())
    return whole.hexdigest()


def digest_of(path: Path) -> str:
    """The hash of a file."""
    found = hashlib.sha256()
    with path.open('rb') as file:
        while part := file.read(1 << 24):
            found.update(part)
    return found.hexdigest()
