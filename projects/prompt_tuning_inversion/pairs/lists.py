"""Lists of images with prompts: our JSON, the mapping file of PIE-Bench, or a folder of images with text files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
PIE_SIZE = 512
# Names of PIE-Bench's edit types, by editing_type_id.
PIE_TYPES = {
    '0': 'random', '1': 'change object', '2': 'add object', '3': 'delete object', '4': 'change content',
    '5': 'change pose', '6': 'change color', '7': 'change material', '8': 'change background', '9': 'change style',
}  # fmt: skip


def read_pairs(source: str | Path, image_root: str | Path | None = None, prompt: str | None = None) -> list[dict]:
    """Images with their prompts.

    Args:
        source: A JSON list of ``{"image", "prompt", "source_prompt"?, "id"?, "type"?}`` with paths from the file's
            folder; PIE-Bench's ``mapping_file.json``; or a folder of images, each with the prompt of its edit in a text
            file of the same name (``cat.png``, ``cat.txt``; a second line is the prompt of the image).
        image_root: Folder that paths start from; default: that of the file, for PIE-Bench its ``annotation_images``.
        prompt: For all images of a folder without a text file.

    Returns:
        Dicts of ``sample_id``, ``img_path``, ``prompt``, ``source_prompt``, ``edit_type``, ``mask`` (runs, PIE-Bench).

    Raises:
        FileNotFoundError: ``source`` does not exist.
        ValueError: Nothing in it, or an entry is not as described; the message says which.
    """
    source = Path(source)
    if source.is_dir():
        pairs = _folder(source, prompt)
    elif source.is_file():
        try:
            content = json.loads(source.read_text(encoding='utf-8'))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f'{source} is not JSON: {error}') from None
        default = 'annotation_images' if isinstance(content, dict) else '.'
        root = Path(image_root) if image_root is not None else source.parent / default
        if isinstance(content, dict):
            pairs = [_pie_bench(source, key, entry, root) for key, entry in content.items()]
        elif isinstance(content, list):
            pairs = [_ours(source, number, entry, root) for number, entry in enumerate(content)]
        else:
            raise ValueError(f'{source} must hold a list, or the mapping of PIE-Bench, not {type(content).__name__}')
    else:
        raise FileNotFoundError(f'no file or folder {source}')
    if not pairs:
        raise ValueError(f'{source} holds no images')
    names = [pair['sample_id'] for pair in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'{source}: the id {twice!r} is there twice')
    return pairs


def _pair(
    sample_id: str, path: Path, prompt: str, source_prompt: str | None, edit_type: str, mask: list | None
) -> dict:
    return dict(
        sample_id=sample_id,
        img_path=str(path),
        prompt=prompt,
        source_prompt=source_prompt,
        edit_type=edit_type,
        mask=mask,
    )


def _text(where: str, entry: Mapping, key: str, needed: bool = True) -> str | None:
    """A text of an entry."""
    value = entry.get(key)
    if value is None and not needed:
        return None
    if not isinstance(value, str):
        raise ValueError(f'{where}: {key!r} must be a text, got {value!r}')
    return value


def _ours(source: Path, number: int, entry: object, root: Path) -> dict:
    where = f'{source}, entry {number}'
    if not isinstance(entry, dict):
        raise ValueError(f'{where}: must be a dict, got {entry!r}')
    image = Path(_text(where, entry, 'image'))
    name = str(entry.get('id', image.with_suffix('').as_posix().replace('/', '_')))
    if '/' in name or name.startswith('.'):
        raise ValueError(f'{where}: the id names a folder of the output and must not be {name!r}')
    prompts = _text(where, entry, 'prompt'), _text(where, entry, 'source_prompt', needed=False)
    return _pair(name, root / image, *prompts, _text(where, entry, 'type', needed=False) or '', None)


def _pie_bench(source: Path, key: str, entry: object, root: Path) -> dict:
    where = f'{source}, {key}'
    if not isinstance(entry, dict):
        raise ValueError(f'{where}: must be a dict, got {entry!r}')
    # Brackets mark the words that change; they are no part of the prompt.
    prompt, original = (
        ' '.join(_text(where, entry, name).replace('[', '').replace(']', '').split())
        for name in ('editing_prompt', 'original_prompt')
    )
    kind = str(entry.get('editing_type_id', ''))
    path = root / _text(where, entry, 'image_path')
    return _pair(key.replace('/', '_'), path, prompt, original, PIE_TYPES.get(kind, kind), entry.get('mask'))


def _folder(source: Path, prompt: str | None) -> list[dict]:
    pairs = []
    for path in sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES):
        notes = path.with_suffix('.txt')
        lines = notes.read_text(encoding='utf-8').splitlines() if notes.is_file() else []
        lines = [line.strip() for line in lines if line.strip()] or ([prompt] if prompt else [])
        if not lines:
            raise ValueError(f'{path} has no prompt: write it to {notes.name} beside it, or give one prompt for all')
        pairs.append(_pair(path.stem, path, lines[0], lines[1] if len(lines) > 1 else None, '', None))
    return pairs


def decode_mask(runs: list[int], size: int = PIE_SIZE) -> np.ndarray:
    """A mask of PIE-Bench, ``(H, W)`` bool, true where the edit may change the image.

    ``runs`` holds start and length of each run over the rows of a square picture. The outermost pixels are counted as
    true, as the benchmark's own evaluation does.

    Raises:
        ValueError: An odd number of values, or a run that leaves the picture.
    """
    starts, lengths = np.asarray(runs, dtype=np.int64)[::2], np.asarray(runs, dtype=np.int64)[1::2]
    if len(starts) != len(lengths) or (starts < 0).any() or (lengths < 0).any() or (starts > size * size).any():
        raise ValueError(f'a mask must be pairs of start and length within {size} x {size} pixels')
    flat = np.zeros(size * size, dtype=bool)
    for start, length in zip(starts, lengths, strict=True):
        flat[start : start + length] = True
    mask = flat.reshape(size, size)
    mask[[0, -1]] = mask[:, [0, -1]] = True
    return mask
