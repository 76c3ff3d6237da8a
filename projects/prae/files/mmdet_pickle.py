"""Results of mmdet's ``tools/test.py --out x.pkl`` (``DumpDetResults``): a list with a dict for each image."""

from __future__ import annotations

import os

import numpy as np

from ..boxes.tables import Dataset, Detections, lookup
from .safe_pickle import read_pickle


def read_mmdet_pickle(path: str | os.PathLike, dataset: Dataset) -> Detections:
    """Read the boxes.

    Labels are numbers of classes in the order in which mmdet has them: that of the annotation file.

    Args:
        path: The pickle. Each dict has ``img_id`` and ``pred_instances`` with ``bboxes`` ``(M, 4)`` or ``(M, 5)``,
            ``scores`` ``(M,)``, ``labels`` ``(M,)`` and perhaps ``masks``, run-length encoded.
        dataset: Images and classes.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, has code in it, or names images or labels that the data set has not.
    """
    samples = read_pickle(path)
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise ValueError(f'{path} is not a file of mmdet’s tools/test.py --out: it must be a list of dicts')
    try:
        image = lookup([sample['img_id'] for sample in samples], dataset.image_ids, f'{path}: image id')
        parts = [_columns(sample['pred_instances']) for sample in samples]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is not a file of mmdet’s tools/test.py --out: no {error}') from error
    if len(set(image.tolist())) < len(image):
        raise ValueError(f'{path} has results of an image more than once')
    order = np.argsort(image)
    parts, image = [parts[place] for place in order], image[order]
    if not parts or not sum(len(score) for _, score, *_ in parts):
        return Detections.make([], [], [], [])
    box = np.concatenate([box for box, score, *_ in parts if len(score)])
    score = np.concatenate([score for _, score, *_ in parts])
    label = np.concatenate([label for _, _, label, _ in parts]).astype(np.int64)
    if label.min() < 0 or label.max() >= len(dataset.classes):
        raise ValueError(f'{path} has label {label.max()}, the annotation file has {len(dataset.classes)} categories')
    masks = [mask for *_, mask in parts]
    mask = None
    if any(part is not None for part in masks):
        mask = np.empty(len(score), dtype=object)
        mask[:] = [_text(m) for part, (_, s, *_) in zip(masks, parts, strict=True) for m in part or [None] * len(s)]
    return Detections(np.repeat(image, [len(s) for _, s, *_ in parts]), label, score, box, mask)


def _columns(instances: dict) -> tuple:
    """Boxes, scores, labels as numpy, and masks or None."""
    box, score, label = (np.asarray(instances[key], dtype=np.float64) for key in ('bboxes', 'scores', 'labels'))
    if not len(box) == len(score) == len(label):
        raise TypeError(f'equal number: {len(box)} boxes, {len(score)} scores, {len(label)} labels')
    return box, score, label, instances.get('masks')


def _text(mask: object) -> object:
    """A run-length mask with text in place of bytes, which JSON has not."""
    if isinstance(mask, dict) and isinstance(mask.get('counts'), bytes):
        return {**mask, 'counts': mask['counts'].decode()}
    return mask
