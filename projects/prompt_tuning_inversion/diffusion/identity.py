"""Which model a folder holds: a hash of all its files, each read once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from mmplugins.utils.atomic import write_text

from .folder import PARTS


def cache_folder() -> Path:
    """This plugin's part of the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``); it may be absent."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmplugins/prompt_tuning_inversion'


def identity_of(folder: Path, notes: Path | None = None) -> str:
    """A hash of the parts of a diffusers folder: configs, tokenizer and every byte of the weights.

    Args:
        folder: The diffusers folder.
        notes: File that keeps the hash of each file beside its size and time, so that gigabytes are read once; default:
            ``files.json`` in :func:`cache_folder`. If it cannot be written, they are read each time.
    """
    notes = cache_folder() / 'files.json' if notes is None else notes
    try:
        known = json.loads(notes.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        known = {}
    found, whole = {}, hashlib.sha256()
    for path in [path for part in PARTS for path in sorted((folder / part).rglob('*')) if path.is_file()]:
        place, status = str(path.resolve()), path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        old = known.get(place)
        if not old or old[:2] != stamp:
            found[place] = [*stamp, digest_of(path)]
        digest = found.get(place, old)[2]
        whole.update(f'{path.relative_to(folder).as_posix()}:{digest}\n'.encode())
    if found:
        try:
            write_text(notes, json.dumps({**known, **found}, indent=1) + '\n')
        except OSError:
            pass  # a read-only home: the next run reads the files again
    return whole.hexdigest()


def digest_of(path: Path) -> str:
    """The hash of a file."""
    found = hashlib.sha256()
    with path.open('rb') as file:
        while part := file.read(1 << 24):
            found.update(part)
    return found.hexdigest()
