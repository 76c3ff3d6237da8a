"""What people save with ``torch.save``: predictions of detectron2, and dicts of torchvision's detectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..boxes.shapes import from_corner_and_size
from ..boxes.tables import Dataset, Detections, lookup
from .mmdet_pickle import as_array, table_of
from .names import images_of


def read_torch_file(path: str | os.PathLike, dataset: Dataset, classes: Sequence[str] | None = None) -> Detections:
    """Read ``instances_predictions.pth`` of detectron2, or torchvision's dict of image id to ``boxes, labels, scores``.

    Labels of detectron2 count from 0; those of torchvision are category ids, or, with ``classes``, count from 1, as 0
    is its background.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, holds other things, or names images or labels that the data set has not.
    """
    import torch

    if not Path(path).is_file():
        raise FileNotFoundError(f'{path} does not exist')
    try:
        data = torch.load(path, weights_only=True, map_location='cpu')
    except Exception as error:  # torch's own message says how to run the code in it
        raise ValueError(f'{path} is damaged or holds more than tensors, numbers and text: not read') from error
    try:
        if isinstance(data, dict):
            return _torchvision(data, dataset, classes, path)
        parts = [_detectron2(entry['instances']) for entry in data]
        return table_of(images_of([entry['image_id'] for entry in data], dataset, path), parts, dataset, classes, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} is neither instances_predictions.pth of detectron2 nor a dict of image id to boxes, labels and '
            f'scores: {type(error).__name__} {error}'
        ) from error


def _torchvision(data: dict, dataset: Dataset, classes: Sequence[str] | None, path: str | os.PathLike) -> Detections:
    image = images_of(list(data), dataset, path)
    parts = [tuple(as_array(found[key]) for key in ('boxes', 'scores', 'labels')) for found in data.values()]
    if classes is None:
        ids = (lookup(label.astype(int).tolist(), dataset.category_ids, f'{path}: category id') for *_, label in parts)
        parts = [(box, score, label, None) for (box, score, _), label in zip(parts, ids, strict=True)]
        return table_of(image, parts, dataset, dataset.classes, path)
    return table_of(image, [(*part[:2], part[2] - 1, None) for part in parts], dataset, classes, path)


def _detectron2(instances: list[dict]) -> tuple:
    box = from_corner_and_size([entry['bbox'] for entry in instances])
    score, label = (np.array([entry[key] for entry in instances], dtype=float) for key in ('score', 'category_id'))
    masks = [entry['segmentation'] for entry in instances if 'segmentation' in entry]
    return box, score, label, masks or None
