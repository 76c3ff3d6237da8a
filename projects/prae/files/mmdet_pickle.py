"""Results of ``tools/test.py --out x.pkl`` of mmdet and mmrotate: a list with a dict for each image."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..boxes.shapes import rotated
from ..boxes.tables import Dataset, Detections
from .names import categories_of, images_of
from .safe_pickle import read_pickle


def read_mmdet_pickle(path: str | os.PathLike, dataset: Dataset, classes: Sequence[str] | None = None) -> Detections:
    """Read the boxes.

    Args:
        path: The pickle. Each dict has ``img_id`` and ``pred_instances`` with ``bboxes`` ``(M, 4)``, ``(M, 5)`` or
            ``(M, 8)``, ``scores`` ``(M,)``, ``labels`` ``(M,)`` and perhaps ``masks``, run-length encoded or bitmaps.
        dataset: Images and classes.
        classes: Names of the labels. None: those in the file, which data sets with ``return_classes=True`` write as
            ``text``; else those of the data set, if there are as many.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, has code in it, or names images or labels that the data set has not.
    """
    samples = read_pickle(path)
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise ValueError(
            f'{path} is not a file of tools/test.py --out of mmdet 3: it must be a list of dicts, not '
            f'of {type(samples[0]).__name__ if isinstance(samples, list) and samples else type(samples).__name__}'
        )
    try:
        ids = [sample['img_id'] for sample in samples]
        parts = [_columns(sample['pred_instances']) for sample in samples]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is not a file of mmdet’s tools/test.py --out: no {error}') from error
    image = images_of(ids, dataset, path)
    if len(set(image.tolist())) < len(image):
        raise ValueError(f'{path} has results of an image more than once')
    return table_of(image, parts, dataset, classes or _classes_in(samples), path)


def table_of(
    image: np.ndarray, parts: list[tuple], dataset: Dataset, classes: Sequence[str] | None, path: str | os.PathLike
) -> Detections:
    """One table of the boxes of all images; boxes of classes that the data set has not are left out.

    Args:
        image: ``(I,)``, which image each part is of.
        parts: Boxes ``(M, 4)``, 5 or 8, scores, labels from 0 and, or None, masks of each image.
        dataset: Images and classes.
        classes: Names of the labels, or None.
        path: The file, for messages.
    """
    order = np.argsort(image, kind='stable')
    parts, image = [parts[place] for place in order], image[order]
    if not sum(len(score) for _, score, *_ in parts):
        return Detections.make([], [], [], [])
    box = np.concatenate([box for box, score, *_ in parts if len(score)])
    if box.shape[1] not in (4, 5, 8):
        raise ValueError(f'{path} has boxes of {box.shape[1]} numbers; 4, 5 (rotated) or 8 (corners) can be read')
    score = np.concatenate([score for _, score, *_ in parts])
    category = categories_of(np.concatenate([label for _, _, label, _ in parts]), dataset, classes, path)
    masks = [mask for *_, mask in parts]
    mask = None
    if any(part is not None for part in masks):
        mask = np.empty(len(score), dtype=object)
        mask[:] = [
            None if m is None else _run_lengths(m)
            for part, (_, s, *_) in zip(masks, parts, strict=True)
            for m in ([None] * len(s) if part is None else part)
        ]
    whole = Detections(
        np.repeat(image, [len(s) for _, s, *_ in parts]),
        category,
        score,
        box if box.shape[1] == 4 else rotated(box),
        mask,
    )
    return whole if (category >= 0).all() else whole.select(category >= 0)


def _columns(instances: dict) -> tuple:
    """Boxes, scores, labels as numpy, and masks or None."""
    box, score, label = (as_array(instances[key]) for key in ('bboxes', 'scores', 'labels'))
    if not len(box) == len(score) == len(label):
        raise TypeError(f'equal number: {len(box)} boxes, {len(score)} scores, {len(label)} labels')
    return box, score, label, instances.get('masks')


def as_array(value: object) -> np.ndarray:
    """A tensor of any type, boxes of mmdet or mmrotate, or an array, as float64."""
    value = getattr(value, 'tensor', value)
    if hasattr(value, 'detach'):
        value = value.detach().cpu().double()  # numpy has no bfloat16
    return np.asarray(value, dtype=np.float64)


def _classes_in(samples: list[dict]) -> tuple[str, ...] | None:
    """Names of the labels, where all images have the same."""
    found = {tuple(text) if isinstance(text, (list, tuple)) else None for text in (s.get('text') for s in samples)}
    names = found.pop() if len(found) == 1 else None
    return names if names and all(isinstance(name, str) for name in names) else None


def _run_lengths(mask: object) -> dict:
    """A mask run-length encoded, with text in place of bytes, which JSON has not."""
    if isinstance(mask, dict):
        counts = mask.get('counts')
        return {**mask, 'counts': counts.decode()} if isinstance(counts, bytes) else mask
    from ..fusion.masks import as_run_lengths

    return as_run_lengths(as_array(mask) > 0)
