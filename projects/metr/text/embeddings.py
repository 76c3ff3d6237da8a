"""Cache files of name embeddings, so that no language model runs at train or test time.

METR's detector reads fixed text features from a file and never runs the language model (authors' code: a float16
``.npy`` of CLIP features, whose rows must be in the order of the classes). Ours is an ``.npz`` that also holds the
names, so that any order and any subset works, and a checksum.

Shapes: ``V`` names in the file, ``E`` channels of an embedding.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...utils.atomic import replacing
from .vocabulary import normalize_name

PACKAGED = Path(__file__).parent
SAME = 1e-5  # of the cosine; half precision keeps vectors to 1e-7
ROWS = 1024  # compared with all others at a time
KEYS = ('names', 'embeddings', 'backend', 'template', 'sha256')


@dataclass(frozen=True, eq=False)
class NameEmbeddings:
    """Embeddings of names, as one cache file holds them.

    Attributes:
        names: ``V`` normalized names, all different.
        embeddings: ``(V, E)``, float16 or float32, as the language model gave them: not normalized by us.
        backend: Language model that made them, see :mod:`mmplugins.metr.text.backends`.
        template: What the model read, with ``{name}`` in it.
        source: The file, for error messages.

    Raises:
        ValueError: If shapes or types are wrong, a name occurs twice, or a row is zero or not finite.
    """

    names: tuple[str, ...]
    embeddings: np.ndarray
    backend: str
    template: str
    source: str = 'memory'
    _row_of: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = {normalize_name(name): row for row, name in enumerate(self.names)}
        object.__setattr__(self, '_row_of', rows)  # the way to fill a field of a frozen dataclass
        values = self.embeddings
        if values.dtype not in (np.float16, np.float32):
            raise ValueError(f'{self.source}: embeddings must be float16 or float32, got {values.dtype}')
        if values.ndim != 2 or len(values) != len(self.names) or values.size == 0:
            raise ValueError(f'{self.source}: {len(self.names)} names but embeddings of shape {values.shape}')
        if len(rows) != len(self.names):
            raise ValueError(f'{self.source}: {len(self.names) - len(rows)} names occur twice')
        good = np.isfinite(values).all(axis=1) & (values != 0).any(axis=1)
        if not good.all():
            bad = [name for name, ok in zip(self.names, good, strict=True) if not ok]
            raise ValueError(f'{self.source}: embeddings that are zero or not finite: {bad}')

    @property
    def dim(self) -> int:
        """``E``."""
        return self.embeddings.shape[1]

    def __contains__(self, name: str) -> bool:
        return normalize_name(name) in self._row_of

    def lookup(self, names: Sequence[str]) -> np.ndarray:
        """Return the embeddings of names in any spelling, float32 ``(len(names), E)``, in the given order.

        Raises:
            KeyError: If some names are not in the file. One error lists all of them and the command that adds them.
        """
        missing = list(dict.fromkeys(normalize_name(name) for name in names if name not in self))
        if missing:
            quoted = ' '.join(f'"{name}"' for name in missing)
            raise KeyError(
                f'{self.source} has no embedding of {len(missing)} names: {missing}. Make a file that has them: '
                f'python -m mmplugins.metr embed-names --backend {self.backend} --template "{self.template}" '
                f'--names {quoted} --out names.npz  (or --append {self.source} to add to a copy of this file), '
                f'and give its path as the embeddings of the model.'
            )
        rows = [self._row_of[normalize_name(name)] for name in names]
        return self.embeddings[rows].astype(np.float32)


def check_distinct(names: Sequence[str], vectors: np.ndarray, source: str) -> None:
    """Refuse different names with one vector: a tokenizer that knows none of their letters reads both alike.

    Args:
        names: ``V``; equal ones may have equal vectors.
        vectors: ``(V, E)``.
        source: Where they come from, for the message.

    Raises:
        ValueError: Two names have one vector, but for rounding to half precision; it names them.
    """
    names = [normalize_name(name) for name in names]
    unit = vectors.astype(np.float32) / np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    for start in range(0, len(names), ROWS):
        alike = unit[start : start + ROWS] @ unit.T > 1 - SAME
        for row, other in zip(*np.nonzero(np.triu(alike, k=start + 1)), strict=True):
            first, second = names[start + row], names[other]
            if first != second:
                raise ValueError(
                    f'{source}: the language model cannot tell {first!r} from {second!r}, their vectors are equal; it '
                    'may not know their letters. Embed the names with a multilingual model: `embed-names --backend '
                    'sentence-transformers --model <folder>`.'
                )


def load_embeddings(path_or_name: str | os.PathLike) -> NameEmbeddings:
    """Load a cache file; nothing in it is executed (``allow_pickle=False``).

    Args:
        path_or_name: The bare name of a file that comes with the plugin, such as ``'minilm-l6-v2'``, or else a path.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a whole cache file: cut off, other keys, pickled data, wrong checksum, bad rows.
    """
    path = _find(path_or_name)
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file]
            if missing:
                raise ValueError(f'keys {missing} are missing; it has {sorted(file)}')
            data = {key: file[key] for key in KEYS}
    # ValueError also: an array of Python objects is refused with it; AttributeError, TypeError: a bare .npy array
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f'{path} is not a file of name embeddings: {error}') from error
    names = tuple(str(name) for name in np.atleast_1d(data['names']))
    if str(data['sha256']) != _sha256(names, data['embeddings']):
        raise ValueError(f'{path}: the checksum does not fit, the file was changed or damaged; make it again')
    backend, template = str(data['backend']), str(data['template'])
    return NameEmbeddings(names, data['embeddings'], backend, template, source=str(path_or_name))


def save_embeddings(path: str | os.PathLike, data: NameEmbeddings) -> None:
    """Write a cache file; whoever reads ``path`` meanwhile sees the old file or the whole new one."""
    path = Path(path)
    names = tuple(normalize_name(name) for name in data.names)
    content = dict(
        names=np.array(names, dtype=np.str_),
        embeddings=data.embeddings,
        backend=np.str_(data.backend),
        template=np.str_(data.template),
        sha256=np.str_(_sha256(names, data.embeddings)),
    )
    with replacing(path) as temporary, open(temporary, 'wb') as file:
        np.savez_compressed(file, **content)


def packaged_names() -> list[str]:
    """Return the bare names of the files that come with the plugin."""
    return sorted(path.stem for path in PACKAGED.glob('*.npz'))


def _find(path_or_name: str | os.PathLike) -> Path:
    """Return the path of a cache file given by path or by bare name."""
    text = os.fspath(path_or_name)
    path = PACKAGED / f'{text}.npz' if text in packaged_names() else Path(text)
    if not path.is_file():
        raise FileNotFoundError(
            f'no embeddings {text!r}: neither a file nor one of {packaged_names()}, which come with the plugin'
        )
    return path


def _sha256(names: Sequence[str], embeddings: np.ndarray) -> str:
    """Return the checksum of names and values; the values as little-endian bytes, so it is the same everywhere."""
    digest = hashlib.sha256('\n'.join(names).encode())
    values = np.ascontiguousarray(embeddings)
    digest.update(f'{values.dtype.name}{values.shape}'.encode())
    digest.update(values.astype(values.dtype.newbyteorder('<')).tobytes())
    return digest.hexdigest()
