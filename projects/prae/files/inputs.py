"""Read and write by the kind of file, and clean what was read."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ..boxes.tables import Dataset, Detections, GroundTruth, clean
from .coco import read_ground_truth, read_results, write_results
from .mmdet_pickle import read_mmdet_pickle
from .open_images import read_open_images
from .torch_file import read_torch_file
from .voc import has_voc_name, read_voc_ground_truth, read_voc_results, write_voc_results
from .yolo import read_yolo

LOGGER = logging.getLogger('mmplugins.prae')


def read_annotations(path: str | os.PathLike, need_annotations: bool = True) -> GroundTruth:
    """Read a COCO annotation file, or a folder of VOC XML."""
    if Path(path).is_dir():
        return read_voc_ground_truth(path)
    return read_ground_truth(path, need_annotations)


def read_detections(
    path: str | os.PathLike,
    dataset: Dataset,
    name: str = '',
    classes: Sequence[str] | None = None,
    first_class: int | None = None,
) -> Detections:
    """Read a file of detections by its kind, and drop boxes that are no boxes.

    Args:
        path: COCO results ``.json`` or ``.json.gz``; pickle of mmdet or mmrotate ``.pkl``; ``.pth`` or ``.pt`` of
            detectron2 or torchvision; Open Images ``.csv``; a folder of VOC or YOLO text files.
        dataset: Images and classes.
        name: Of the detector, for messages.
        classes: Names of labels 0, 1, …, for files that have numbers only.
        first_class: See :func:`files.coco.read_results`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is of another kind, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        voc = any(has_voc_name(file) for file in path.glob('*.txt'))
        table = read_voc_results(path, dataset) if voc else read_yolo(path, dataset, classes)
    elif path.suffix in ('.pkl', '.pickle'):
        table = read_mmdet_pickle(path, dataset, classes)
    elif path.suffix in ('.pth', '.pt'):
        table = read_torch_file(path, dataset, classes)
    elif path.suffix == '.csv':
        table = read_open_images(path, dataset)
    elif path.name.endswith(('.json', '.json.gz')):
        table = read_results(path, dataset, classes, first_class)
    else:
        raise ValueError(
            f'{path}: detections are .json, .json.gz, .pkl, .pth, .csv or a folder of VOC or YOLO text files'
        )
    table, dropped = clean(table)
    for reason, count in dropped.items():
        if count:
            LOGGER.warning('%s: left out %d of %d boxes (%s)', name or path, count, len(table) + count, reason)
    return table


def write_detections(table: Detections, dataset: Dataset, path: str | os.PathLike) -> None:
    """Write a COCO results file, or, if the name has no suffix, VOC text files into that folder."""
    if Path(path).suffix in ('.json', '.gz'):
        write_results(table, dataset, path)
    elif Path(path).suffix:
        raise ValueError(f'{path}: output is .json, .json.gz or, for VOC text files, a folder')
    else:
        write_voc_results(table, dataset, path)
