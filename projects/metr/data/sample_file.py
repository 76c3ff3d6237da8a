"""Parsed samples in a folder that every process of a node maps into memory: one copy, whoever reads it.

Not in the paper: our decision. A parsed box costs about 1.2 KB of Python objects in every process that reads an
annotation file, which for the 41 million boxes of the joint pretraining is more than most nodes have.

Samples are stored as JSON: reading a file that lies beside a data set must not run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

VERSION = 1
BLOCK = 1 << 16  # bytes
BLOCKS = 64


class SampleFile:
    """A sequence of samples on disk.

    Args:
        folder: Written by :func:`write_samples`.

    Attributes:
        meta: What was written beside the samples.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.meta = json.loads((self.folder / 'meta.json').read_text(encoding='utf-8'))
        # Plain arrays over the mapped memory: indexing numpy's own class for it takes several times as long.
        self._bytes, self._ends, self._labels, self._label_ends = (
            np.asarray(np.load(self.folder / f'{name}.npy', mmap_mode='r'))
            for name in ('bytes', 'ends', 'labels', 'label_ends')
        )

    def __reduce__(self) -> tuple:
        """Pickle the place and not the content: a worker that is spawned maps the file like any other process."""
        return SampleFile, (self.folder,)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        return json.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())

    def labels(self, index: int) -> list[int]:
        """Return the label of each box of a sample, without reading the sample."""
        index = range(len(self))[index]
        return self._labels[self._label_ends[index] : self._label_ends[index + 1]].tolist()


def shared_samples(
    folder: str | os.PathLike, source: str | os.PathLike, options: Mapping, make: Callable[[], tuple[Iterable, Mapping]]
) -> SampleFile:
    """Return the samples of an annotation file, which one process parses and all others wait for.

    Args:
        folder: Where files of samples are kept. Their names hold a hash of the source and the options, so that a
            changed file is parsed anew.
        source: The annotation file.
        options: Whatever else decides what the samples are; values that JSON can hold.
        make: Parses the annotation file; returns the samples and what :attr:`SampleFile.meta` is to hold.

    Raises:
        PermissionError: If nothing can be written to the folder.
    """
    folder = Path(folder)
    target = folder / f'{Path(source).stem}.{_digest(source, options)}.samples'
    if not target.is_dir():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(target.with_suffix('.lock')):
                if not target.is_dir():
                    write_samples(target, *make())
        except PermissionError as error:
            raise PermissionError(
                f'the parsed samples of {source} cannot be kept in {folder}: {error.strerror}. Give `cache_dir` a '
                'folder to which you may write, or None to parse the file in each process.'
            ) from error
    return SampleFile(target)


def write_samples(target: Path, samples: Iterable[Mapping], meta: Mapping) -> None:
    """Write a folder that :class:`SampleFile` reads; it is there whole or not at all."""
    temporary = target.with_name(f'.{os.getpid()}.{target.name}')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        ends, labels, label_ends = [0], [], [0]
        with open(temporary / 'bytes', 'wb') as file:
            for sample in samples:
                file.write(json.dumps(sample).encode())
                ends.append(file.tell())
                labels.extend(instance['bbox_label'] for instance in sample['instances'])
                label_ends.append(len(labels))
        content = np.memmap(temporary / 'bytes', dtype=np.uint8, mode='r') if ends[-1] else np.zeros(0, np.uint8)
        np.save(temporary / 'bytes.npy', content)
        os.remove(temporary / 'bytes')
        for name, values in dict(ends=ends, labels=labels, label_ends=label_ends).items():
            np.save(temporary / f'{name}.npy', np.array(values, dtype=np.int32 if name == 'labels' else np.int64))
        (temporary / 'meta.json').write_text(json.dumps(meta), encoding='utf-8')
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(path: Path):
    """Hold a lock that a process gives up when it ends, however it ends."""
    import fcntl  # not on Windows, where the rest of the plugin works

    with open(path, 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(source: str | os.PathLike, options: Mapping) -> str:
    """Return a hash of the options, and of size, date and 64 blocks of a file: reading 10 GB would take a minute."""
    status = os.stat(source)
    digest = hashlib.blake2b(digest_size=8)
    head = dict(version=VERSION, size=status.st_size, changed=status.st_mtime_ns, options=options)
    digest.update(json.dumps(head, sort_keys=True, default=list).encode())
    with open(source, 'rb') as file:
        for position in np.linspace(0, max(0, status.st_size - BLOCK), BLOCKS, dtype=np.int64).tolist():
            file.seek(position)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()
