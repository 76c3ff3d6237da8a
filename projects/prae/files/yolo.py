"""YOLO text files, one an image: ``class cx cy w h confidence`` in [0, 1], or class, eight corners, confidence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..boxes.shapes import rotated
from ..boxes.tables import Dataset, Detections
from .names import categories_of, images_of
from .open_images import pixels


def read_yolo(folder: str | os.PathLike, dataset: Dataset, classes: Sequence[str] | None = None) -> Detections:
    """Read the folder ``labels`` that Ultralytics writes with ``save_txt=True save_conf=True``.

    Args:
        folder: With a file for each image that has boxes, called as the image.
        dataset: Images with sizes, and classes.
        classes: Names of the labels; None: those of the data set, if there are as many.

    Raises:
        ValueError: If a line is of another form, or an image or label is not in the data set.
    """
    files = sorted(Path(folder).glob('*.txt'))
    lines = [(path, number, line.split()) for path in files for number, line in _lines(path)]
    lengths = {len(fields) for *_, fields in lines}
    if not lengths <= {6} and not lengths <= {10}:
        path, number, fields = next(line for line in lines if len(line[2]) not in (6, 10) or len(lengths) > 1)
        hint = '; run with save_conf=True' if len(fields) in (5, 9) else ''
        text = (
            f'{path}, line {number}: {len(fields)} words, expected class, cx, cy, w, h, confidence (or 8 corners){hint}'
        )
        raise ValueError(text)
    try:
        value = np.array([[float(field) for field in fields] for *_, fields in lines]).reshape(len(lines), -1)
    except ValueError as error:
        raise ValueError(f'{folder} has a line with something that is no number: {error}') from error
    if not len(value):
        return Detections.make([], [], [], [])
    image = images_of([path.stem for path, *_ in lines], dataset, folder)
    category = categories_of(value[:, 0], dataset, classes, folder)
    size = pixels(dataset, image, folder)
    if value.shape[1] == 6:
        center, half = value[:, 1:3], value[:, 3:5] / 2
        box = np.concatenate([center - half, center + half], axis=1) * size
    else:
        box = rotated(value[:, 1:9] * np.tile(size, 2))
    table = Detections(image, category, value[:, -1], box)
    order = np.argsort(image, kind='stable')
    return table.select(order[category[order] >= 0])


def _lines(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding='utf-8').splitlines()
    return [(number, line) for number, line in enumerate(text, start=1) if line.strip()]
