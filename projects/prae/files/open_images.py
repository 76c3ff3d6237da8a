"""Open Images: ``ImageID,LabelName,Conf,XMin,XMax,YMin,YMax``, corners in [0, 1] of the image."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from ..boxes.tables import Dataset, Detections, lookup
from .names import images_of

COLUMNS = ('ImageID', 'LabelName', 'Conf', 'XMin', 'XMax', 'YMin', 'YMax')


def read_open_images(path: str | os.PathLike, dataset: Dataset) -> Detections:
    """Read a table of boxes; ``Confidence`` is taken for ``Conf``, and ``LabelName`` is the name of a category.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it has other columns, names images or classes that the data set has not, or that has no sizes.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path} does not exist')
    with open(path, newline='', encoding='utf-8') as file:
        reader = csv.DictReader(file)
        header = ['Conf' if name == 'Confidence' else name for name in reader.fieldnames or ()]
        if not set(COLUMNS) <= set(header):
            raise ValueError(
                f'{path} has the columns {header}, it needs {list(COLUMNS)}; split the text of a PredictionString, six '
                f'words a box, into them first'
            )
        reader.fieldnames = header
        rows = list(reader)
    image = images_of([row['ImageID'] for row in rows], dataset, path)
    category = lookup([row['LabelName'] for row in rows], dataset.classes, f'{path}: class')
    try:
        value = np.array([[float(row[name]) for name in COLUMNS[2:]] for row in rows]).reshape(-1, 5)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{path} has a row without a number: {error}') from error
    box = value[:, [1, 3, 2, 4]] * pixels(dataset, image, path)
    return Detections(image, category, value[:, 0], box).select(np.argsort(image, kind='stable'))


def pixels(dataset: Dataset, image: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    """Width, height, width, height of the image of each box, ``(M, 4)``.

    Raises:
        ValueError: If the data set does not have them.
    """
    size = dataset.sizes[image]
    if (size <= 0).any():
        raise ValueError(
            f'{path} has corners from 0 to 1, but the annotation file has no width and height of the images'
        )
    return np.tile(size, 2)
