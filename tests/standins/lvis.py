"""LVIS v1: 1203 names on COCO's pictures; each picture says what was looked for and not found."""

from pathlib import Path

import numpy as np
from mmdet.datasets import LVISV1Dataset

from .coco import SIZES, CocoFile
from .pictures import corners_of, paint, random_boxes, save


def write(root: Path) -> None:
    """Write ``{train,val}2017/`` and ``annotations/lvis_v1_{train,val}.json``.

    Pictures have no ``file_name``: the last two parts of ``coco_url`` are the path, and a picture of LVIS' validation
    may be one of COCO's training.
    """
    rng = np.random.default_rng(0)
    names = LVISV1Dataset.METAINFO['classes']
    for part, first in (('train', 391895), ('val', 397133)):
        file = CocoFile(dict(enumerate(names, start=1)))
        for category in file.content['categories']:
            category.update(frequency='rcf'[category['id'] % 3], synset=f'{category["name"]}.n.01', image_count=1)
        for i in range(4):
            number, size = first + i, SIZES[i % len(SIZES)]
            folder = 'train2017' if part == 'train' or i == 0 else 'val2017'
            boxes = random_boxes(rng, size, 3)
            categories = rng.choice(len(names), 5, replace=False) + 1
            save(paint(rng, size, [corners_of(box) for box in boxes]), root / folder / f'{number:012d}.jpg')
            file.add_image(
                number, '', size,
                coco_url=f'http://images.cocodataset.org/{folder}/{number:012d}.jpg',
                neg_category_ids=categories[3:].tolist(),
                not_exhaustive_category_ids=categories[2:3].tolist(),
            )  # fmt: skip
            del file.content['images'][-1]['file_name']
            for category, box in zip(categories.tolist(), boxes, strict=False):
                file.add_box(number, category, box)
        for annotation in file.content['annotations']:
            del annotation['iscrowd']
        file.write(root / f'annotations/lvis_v1_{part}.json')
