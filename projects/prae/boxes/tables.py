"""Flat tables of detections and ground truth, the input and output of every step.

Arrays are numpy: a calibration file can be applied without torch. Letters: ``M`` boxes of a table, ``I`` images,
``C`` classes. Boxes are xyxy in absolute pixels, or ``(cx, cy, w, h, radians)`` where the last axis is 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray


@dataclass(frozen=True)
class Dataset:
    """Images and classes that tables index into.

    Args:
        image_ids: Of the annotation file, sorted, so that results do not depend on the order of a file.
        file_names: In the same order; empty strings where unknown.
        sizes: ``(I, 2)``, width and height in pixels; zeros where unknown.
        classes: Names, in the order of ``category_ids``.
        category_ids: Of the annotation file, in its order.
    """

    image_ids: tuple
    file_names: tuple[str, ...]
    sizes: ndarray
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class Detections:
    """Boxes of one detector, or of an ensemble after fusion.

    Args:
        image: ``(M,)``, index of the image in the data set.
        category: ``(M,)``, index of the class.
        score: ``(M,)``, any real number, higher is better.
        box: ``(M, 4)`` xyxy pixels, or ``(M, 5)`` rotated.
        mask: ``(M,)`` objects, COCO run-length masks; None if there are none.
        source: ``(M, 2)``, of a fused table: detector and row of the input box that this is; -1 where merged.
    """

    image: ndarray
    category: ndarray
    score: ndarray
    box: ndarray
    mask: ndarray | None = None
    source: ndarray | None = None

    def __len__(self) -> int:
        return len(self.score)

    def select(self, index: ndarray) -> Detections:
        """Return the rows of an index array or a boolean mask."""
        optional = (None if x is None else x[index] for x in (self.mask, self.source))
        return Detections(self.image[index], self.category[index], self.score[index], self.box[index], *optional)

    def with_scores(self, score: ndarray) -> Detections:
        """Return the same boxes with other scores."""
        return replace(self, score=np.asarray(score, dtype=np.float64))

    @staticmethod
    def make(image: Sequence, category: Sequence, score: Sequence, box: Sequence) -> Detections:
        """Build a table from sequences; an empty one has boxes of shape ``(0, 4)``."""
        box = np.asarray(box, dtype=np.float64)
        ints = (np.asarray(x, dtype=np.int64).reshape(-1) for x in (image, category))
        return Detections(*ints, np.asarray(score, dtype=np.float64).reshape(-1), box if box.size else np.zeros((0, 4)))


@dataclass(frozen=True)
class GroundTruth:
    """Annotated boxes of a data set.

    Args:
        dataset: What ``image`` and ``category`` index into.
        image: ``(M,)``.
        category: ``(M,)``.
        box: ``(M, 4)`` xyxy pixels, or ``(M, 5)`` rotated.
        ignore: ``(M,)`` bool; difficult or crowd: a detection of it is neither right nor wrong.
        crowd: ``(M,)`` bool; a region of several objects. Overlap is measured relative to the detection, as COCO does.
        area: ``(M,)``, square pixels of the mask, by which COCO calls an object small or large. None: of the box.
    """

    dataset: Dataset
    image: ndarray
    category: ndarray
    box: ndarray
    ignore: ndarray
    crowd: ndarray
    area: ndarray | None = None

    def select(self, index: ndarray) -> GroundTruth:
        """Return the rows of an index array or a boolean mask; the data set stays whole."""
        columns = (x[index] for x in (self.image, self.category, self.box, self.ignore, self.crowd))
        return GroundTruth(self.dataset, *columns, None if self.area is None else self.area[index])

    def ignored_as_crowd(self) -> GroundTruth:
        """Return the table as pycocotools sees it, which knows no other way to ignore an object."""
        return replace(self, crowd=self.ignore.copy())


def subset(gt: GroundTruth, images: ndarray) -> GroundTruth:
    """Return the ground truth of some images, numbered anew in the given order.

    Args:
        gt: All.
        images: ``(I',)`` indices of images.
    """
    data = gt.dataset
    part = replace(
        data,
        image_ids=tuple(data.image_ids[i] for i in images),
        file_names=tuple(data.file_names[i] for i in images),
        sizes=data.sizes[images],
    )
    number = _numbers(images, len(data))
    kept = gt.select(number[gt.image] >= 0)
    return replace(kept, dataset=part, image=number[kept.image])


def subset_detections(table: Detections, images: ndarray, num_images: int) -> Detections:
    """Return the detections on some images of ``num_images``, numbered as :func:`subset` does."""
    number = _numbers(images, num_images)
    kept = table.select(number[table.image] >= 0)
    return replace(kept, image=number[kept.image])


def _numbers(images: ndarray, num_images: int) -> ndarray:
    number = np.full(num_images, -1)
    number[images] = np.arange(len(images))
    return number


def clean(table: Detections) -> tuple[Detections, dict[str, int]]:
    """Drop boxes that nothing can be done with, and count them.

    Returns:
        The rest; the number of dropped boxes for each reason: ``not finite`` (a NaN or infinity in score or box) and
        ``no area`` (width or height zero or negative).
    """
    finite = np.isfinite(table.score) & np.isfinite(table.box).all(1)
    with np.errstate(invalid='ignore'):
        size = table.box[:, 2:4] if table.box.shape[1] == 5 else table.box[:, 2:] - table.box[:, :2]
        area = (size > 0).all(1)
    counts = {'not finite': int((~finite).sum()), 'no area': int((finite & ~area).sum())}
    keep = finite & area
    return (table if keep.all() else table.select(keep)), counts


def lookup(values: list, known: tuple, what: str) -> ndarray:
    """Index of each value in ``known``.

    Raises:
        ValueError: If one is not there.
    """
    index = {value: place for place, value in enumerate(known)}
    try:
        return np.array([index[value] for value in values], dtype=np.int64)
    except KeyError:
        unknown = sorted({str(value) for value in values if value not in index})
        raise ValueError(f'unknown {what} {", ".join(unknown[:5])} ({len(unknown)} in all)') from None
