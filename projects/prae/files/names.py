"""Which image and which class a file means: by id, else by file name; by class name, never by place alone."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy import ndarray

from ..boxes.tables import Dataset

LOGGER = logging.getLogger('mmplugins.prae')


def images_of(values: Sequence, dataset: Dataset, path: str | os.PathLike, names_first: bool = False) -> ndarray:
    """Index of the image that each value names: by its id, else by its path, file name or file name without suffix.

    A path with folders stands for an image whose path ends in it, or that it ends in: never for another folder's image.

    Args:
        values: ``(M,)`` ids, as numbers or text, or file names.
        dataset: The images.
        path: Where they stand, for messages.
        names_first: Whether the values are file names, and ids only if there is no such name.

    Raises:
        ValueError: If one is not in the data set, or several images have that file name.
    """
    index = {} if names_first else {image_id: place for place, image_id in enumerate(dataset.image_ids)}
    missing = {value for value in set(values) if value not in index}
    if missing:
        lookups = [_by_id(dataset), _by_name(dataset)]
        if names_first:
            lookups.reverse()
        unknown = []
        for value in missing:
            places = set(next(filter(None, (find(str(value)) for find in lookups)), ()))
            if len(places) > 1:
                raise ValueError(f'{path}: {len(places)} images are called {value}; give ids, or paths with folders')
            if places:
                index[value] = places.pop()
            else:
                unknown.append(str(value))
        if unknown:
            text = f'{path}: unknown image id or name {", ".join(sorted(unknown)[:5])} ({len(unknown)} in all)'
            raise ValueError(f'{text}; the annotation file has {_examples(dataset)}')
    return np.array([index[value] for value in values], dtype=np.int64)


def _by_id(dataset: Dataset) -> Callable[[str], set[int]]:
    ids = {str(image_id): {place} for place, image_id in enumerate(dataset.image_ids)}
    return lambda value: ids.get(value, set())


def _by_name(dataset: Dataset) -> Callable[[str], set[int]]:
    whole: dict[str, set[int]] = {}
    ends: dict[str, set[int]] = {}
    for place, name in enumerate(dataset.file_names):
        for number, end in enumerate(_ends(name)):
            ends.setdefault(end, set()).add(place)
            if number == 0:
                whole.setdefault(end, set()).add(place)

    def find(value: str) -> set[int]:
        mine = _ends(value)
        return (
            ends.get(mine[0], set()) or next(filter(None, (whole.get(end) for end in mine)), set()) if mine else set()
        )

    return find


def _ends(name: str) -> list[str]:
    """A path without the file's suffix, and all its ends: ``a/b/c``, ``b/c``, ``c``."""
    path = PurePosixPath(name.replace('\\', '/'))
    parts = (*path.parts[:-1], path.stem)
    return ['/'.join(parts[start:]) for start in range(len(parts))] if path.name else []


def _examples(dataset: Dataset) -> str:
    return ', '.join(
        f'{image_id} ({name})' for image_id, name in zip(dataset.image_ids[:2], dataset.file_names[:2], strict=True)
    )


def short_names(dataset: Dataset) -> list[str]:
    """What VOC calls each image: its file name without suffix, with folders if others have it too; else its id."""
    paths = [PurePosixPath(name.replace('\\', '/')) for name in dataset.file_names]
    count = Counter(path.stem for path in paths)
    return [
        (path.stem if count[path.stem] == 1 else str(path.with_suffix(''))) or str(image_id)
        for path, image_id in zip(paths, dataset.image_ids, strict=True)
    ]


def categories_of(labels: ndarray, dataset: Dataset, classes: Sequence[str] | None, path: str | os.PathLike) -> ndarray:
    """Index of the class of each label, -1 for a class that the data set has not.

    Args:
        labels: ``(M,)``, numbers of a detector's classes from 0.
        dataset: The classes.
        classes: Names of the labels; None: those of the data set, if there are as many.
        path: Where they stand, for messages.

    Raises:
        ValueError: If there are no names and not as many labels as classes, more labels than names, or no name that
            the data set has.
    """
    if not len(labels):
        return np.zeros(0, dtype=np.int64)
    low, high = int(labels.min()), int(labels.max())
    if classes is None:
        if low < 0 or high + 1 != len(dataset.classes):
            raise ValueError(
                f'{path} has labels {low} to {high}, the annotation file has {len(dataset.classes)} categories: which '
                f'is which? Name the classes of labels 0, 1, … with --classes'
            )
        return labels.astype(np.int64)
    if low < 0 or high >= len(classes):
        raise ValueError(f'{path} has labels {low} to {high} for {len(classes)} classes {list(classes)[:5]}')
    place = {name: number for number, name in enumerate(dataset.classes)}
    if not set(classes) & set(place):
        raise ValueError(f'{path}: none of the classes {list(classes)[:5]} is in {list(dataset.classes)[:5]}')
    category = np.array([place.get(name, -1) for name in classes])[labels.astype(np.int64)]
    if strange := int((category < 0).sum()):
        LOGGER.warning('%s: left out %d boxes of classes that the annotation file has not', path, strange)
    return category
