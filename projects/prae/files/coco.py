"""COCO annotation files and COCO results files, plain or gzipped."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy import ndarray

from ...utils.atomic import replacing
from ..boxes.shapes import from_corner_and_size
from ..boxes.tables import Dataset, Detections, GroundTruth, lookup
from .names import categories_of, images_of


def read_json(path: str | os.PathLike) -> object:
    """Content of a ``.json`` or ``.json.gz`` file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is empty, cut off or not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist')
    if path.stat().st_size == 0:
        raise ValueError(f'{path} is empty')
    opener = gzip.open if path.suffix == '.gz' else open
    try:
        with opener(path, 'rt', encoding='utf-8') as file:
            return json.load(file)
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:  # ValueError: of json and of UTF-8
        raise ValueError(f'{path} is cut off or not JSON: {error}') from error


def read_ground_truth(path: str | os.PathLike, need_annotations: bool = True) -> GroundTruth:
    """Read a COCO annotation file.

    An object is ignored if ``iscrowd``, ``ignore`` or ``difficult`` is set; boxes without area are left out. Where an
    object has no ``area``, its box's is taken.

    Args:
        path: ``.json`` or ``.json.gz``.
        need_annotations: Whether a file with images and categories only is an error.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not COCO, has no images or categories, repeats an id or a name, or an annotation is of an
            unknown image or category.
    """
    data = read_json(path)
    keys = ('images', 'categories', 'annotations') if need_annotations else ('images', 'categories')
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in keys):
        raise ValueError(f'{path} is not a COCO annotation file: it needs the lists {", ".join(keys)}')
    try:
        dataset = _dataset(data, path)
        return _boxes(data.get('annotations') or [], dataset, path)
    except (KeyError, TypeError) as error:
        raise ValueError(f'{path} is not a COCO annotation file: {type(error).__name__} {error}') from error


def _dataset(data: dict, path: str | os.PathLike) -> Dataset:
    images, categories = data['images'], data['categories']
    if not images or not categories:
        raise ValueError(f'{path} has {len(images)} images and {len(categories)} categories')
    for what, values in (
        ('image id', [image['id'] for image in images]),
        ('category id', [category['id'] for category in categories]),
        ('category name', [category['name'] for category in categories]),
    ):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f'{path} has {what} {twice[0]!r} more than once')
    if len({type(image['id']) for image in images}) > 1:
        raise ValueError(f'{path} has image ids that are numbers and others that are text')
    images = sorted(images, key=lambda image: image['id'])
    return Dataset(
        tuple(image['id'] for image in images),
        tuple(str(image.get('file_name') or '') for image in images),
        np.array([(image.get('width') or 0, image.get('height') or 0) for image in images], dtype=np.float64),
        tuple(category['name'] for category in categories),
        tuple(category['id'] for category in categories),
    )


def _boxes(annotations: list[dict], dataset: Dataset, path: str | os.PathLike) -> GroundTruth:
    missing = sum(not a['bbox'] for a in annotations)
    if missing:
        raise ValueError(f'{path} has {missing} annotations without a box (bbox is null or empty): take them out')
    box = _corners([a['bbox'] for a in annotations], path)
    size = box[:, 2:4] - box[:, :2] if box.shape[1] == 4 else box[:, 2:4]
    kept = (size > 0).all(1)
    annotations, box, size = [a for a, keep in zip(annotations, kept, strict=True) if keep], box[kept], size[kept]
    image = lookup([a['image_id'] for a in annotations], dataset.image_ids, f'{path}: image id')
    category = lookup([a['category_id'] for a in annotations], dataset.category_ids, f'{path}: category id')
    crowd = np.array([bool(a.get('iscrowd')) for a in annotations], dtype=bool)
    ignore = np.array([bool(a.get('ignore') or a.get('difficult')) for a in annotations], dtype=bool) | crowd
    area = [a.get('area') or of_box for a, of_box in zip(annotations, size.prod(1).tolist(), strict=True)]
    return GroundTruth(dataset, image, category, box, ignore, crowd, np.array(area, dtype=np.float64))


def read_results(
    path: str | os.PathLike,
    dataset: Dataset,
    classes: Sequence[str] | None = None,
    first_class: int | None = None,
) -> Detections:
    """Read a COCO results file, a list of ``image_id, category_id, bbox (x, y, w, h), score[, segmentation]``.

    So are ``predictions.json`` of Ultralytics, whose entries name the file as well, and ``coco_instances_results.json``
    of detectron2. Boxes come out in the order of images, whatever the order of the file. They are not cleaned.

    Args:
        path: ``.json`` or ``.json.gz``.
        dataset: Images and classes.
        classes: Where ``category_id`` is not an id of the annotation file but a number of a class: names of the classes
            in order. A file with a 0 counts from 0 (YOLOv5, early Ultralytics), one with as high a number as there are
            names from 1 (Ultralytics).
        first_class: Number of the first class, 0 or 1, in a file that has neither. None: such a file is refused.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is empty, cut off or not a results file, or names images or categories that the data set
            has not, or does not tell from which number its classes count.
    """
    data = read_json(path)
    if not isinstance(data, list):
        raise ValueError(f'{path} is not a COCO results file: it must be a list of boxes')
    try:
        image = images_of([d.get('file_name') or d['image_id'] for d in data], dataset, path)
        category = _categories([d['category_id'] for d in data], dataset, classes, first_class, path)
        score = np.array([d['score'] for d in data], dtype=np.float64)
        table = Detections(image, category, score.reshape(-1), _corners([d['bbox'] for d in data], path))
        if any('segmentation' in d for d in data):
            mask = np.empty(len(data), dtype=object)
            mask[:] = [d.get('segmentation') for d in data]
            table = replace(table, mask=mask)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is not a COCO results file: {type(error).__name__} {error}') from error
    order = np.argsort(table.image, kind='stable')
    return table.select(order[table.category[order] >= 0])


def _categories(
    ids: list, dataset: Dataset, classes: Sequence[str] | None, first_class: int | None, path: str | os.PathLike
) -> ndarray:
    if classes is None:
        return lookup(ids, dataset.category_ids, f'{path}: category id')
    number = np.array(ids, dtype=np.int64)
    last = number.max(initial=0)
    if last == len(classes):
        first_class = 1
    elif 0 in number or not 0 < last < len(classes):
        first_class = 0
    elif first_class is None:
        raise ValueError(
            f'{path} has classes {number.min()} to {last} for {len(classes)} names: with neither 0 nor {len(classes)} '
            f'it does not tell whether it counts from 0 or from 1; say it with --first-class'
        )
    return categories_of(number - first_class, dataset, classes, path)


def _corners(boxes: list, path: str | os.PathLike) -> ndarray:
    try:
        return from_corner_and_size(boxes)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def write_results(table: Detections, dataset: Dataset, path: str | os.PathLike) -> None:
    """Write a COCO results file, gzipped if the name ends in ``.gz``.

    Corners are rounded to 0.001 pixel; rotated boxes are written as they are, angles in radians. Scores are not
    rounded: their last digits hold the order of equal ones.
    """
    box = table.box
    if box.shape[1] == 4:
        box = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1)
    columns = (
        table.image.tolist(),
        table.category.tolist(),
        table.score.tolist(),
        box.round(3 if box.shape[1] == 4 else 6).tolist(),
    )
    results = [
        dict(image_id=dataset.image_ids[image], category_id=dataset.category_ids[category], bbox=xywh, score=score)
        for image, category, score, xywh in zip(*columns, strict=True)
    ]
    if table.mask is not None:
        for entry, mask in zip(results, table.mask, strict=True):
            if mask is not None:
                entry['segmentation'] = mask
    with replacing(path) as temporary:
        opener = gzip.open if str(path).endswith('.gz') else open
        with opener(temporary, 'wt', encoding='utf-8') as file:
            file.write(json.dumps(results))
