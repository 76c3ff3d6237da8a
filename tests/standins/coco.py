"""COCO 2017 (detection and instances), and the writer of COCO's json that other families share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset

from .pictures import corners_of, paint, random_boxes, save

# 80 of the identifiers 1 to 90 are in use.
MISSING = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORY_IDS = [number for number in range(1, 91) if number not in MISSING]
# Landscape, portrait, square: batches by aspect ratio need more than one kind.
SIZES = ((96, 64), (64, 96), (80, 80))


class CocoFile:
    """Images and annotations of one COCO-style json.

    Args:
        categories: Identifier and name of each.
    """

    def __init__(self, categories: dict[int, str]) -> None:
        self.content = dict(
            info=dict(description='stand-in', version='1.0'),
            licenses=[dict(id=1, name='none', url='')],
            images=[],
            annotations=[],
            categories=[dict(id=number, name=name, supercategory=name) for number, name in categories.items()],
        )

    def add_image(self, number: int, file_name: str, size: tuple[int, int], **extra) -> None:
        """List a picture."""
        image = dict(id=number, file_name=file_name, width=size[0], height=size[1], license=1, **extra)
        self.content['images'].append(image)

    def add_box(self, image: int, category: int, box: Sequence[float], **extra) -> None:
        """List a box x1, y1, x2, y2 with its outline as segmentation, or what ``extra`` says."""
        x1, y1, x2, y2 = map(float, box)
        annotation = dict(
            id=len(self.content['annotations']) + 1,
            image_id=image,
            category_id=category,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=(x2 - x1) * (y2 - y1),
            iscrowd=0,
            segmentation=[corners_of(box)],
        )
        self.content['annotations'].append({**annotation, **extra})

    def write(self, path: Path) -> None:
        """Write the json; folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.content))


def crowd_mask(box: Sequence[float], size: tuple[int, int]) -> dict:
    """Return the uncompressed run lengths, column by column, that COCO has for crowds."""
    x1, y1, x2, y2 = map(int, box)
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[y1:y2, x1:x2] = 1
    flat = mask.ravel(order='F')
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return dict(size=[size[1], size[0]], counts=counts if flat[0] == 0 else [0, *counts])


def write_part(root: Path, part: str, first: int, rng: np.random.Generator, count: int) -> CocoFile:
    """Write the pictures of a part: the last has no objects, the first is gray and has a crowd."""
    names = dict(zip(CATEGORY_IDS, CocoDataset.METAINFO['classes'], strict=True))
    file = CocoFile(names)
    for i in range(count):
        number, size = first + i, SIZES[i % len(SIZES)]
        boxes = random_boxes(rng, size, 0 if i == count - 1 else 3)
        picture = paint(rng, size, [corners_of(box) for box in boxes], mode='L' if i == 0 else 'RGB')
        save(picture, root / part / f'{number:012d}.jpg')
        url = f'http://images.cocodataset.org/{part}/{number:012d}.jpg'
        file.add_image(number, f'{number:012d}.jpg', size, coco_url=url)
        for category, box in zip(rng.choice(CATEGORY_IDS, len(boxes)).tolist(), boxes, strict=True):
            file.add_box(number, category, box)
        if i == 0:
            crowd = boxes[0]
            file.add_box(number, 1, crowd, iscrowd=1, segmentation=crowd_mask(crowd, size))
    return file


def write(root: Path) -> None:
    """Write ``train2017/``, ``val2017/`` and ``annotations/instances_*2017.json``."""
    rng = np.random.default_rng(0)
    write_part(root, 'train2017', 9, rng, count=5).write(root / 'annotations/instances_train2017.json')
    write_part(root, 'val2017', 139, rng, count=3).write(root / 'annotations/instances_val2017.json')


def write_custom(root: Path) -> None:
    """Write two classes of one's own in COCO's format: ``{train,val}/`` and ``annotations/{train,val}.json``."""
    rng = np.random.default_rng(0)
    for part in ('train', 'val'):
        file = CocoFile({1: 'cat', 2: 'dog'})
        for number in range(4):
            size = SIZES[number % len(SIZES)]
            boxes = random_boxes(rng, size, 2)
            save(paint(rng, size, [corners_of(box) for box in boxes]), root / part / f'{number}.jpg')
            file.add_image(number, f'{number}.jpg', size)
            for category, box in enumerate(boxes, start=1):
                file.add_box(number, category, box)
        file.write(root / f'annotations/{part}.json')
