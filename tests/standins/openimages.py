"""OpenImages v6: boxes, class descriptions, hierarchy and image-level labels as published; boxes also as COCO json."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path

import numpy as np
from mmdet.evaluation.functional.class_names import oid_v6_classes

from .coco import SIZES, CocoFile
from .pictures import corners_of, paint, random_boxes, save

BOX_COLUMNS = (
    'ImageID', 'Source', 'LabelName', 'Confidence', 'XMin', 'XMax', 'YMin', 'YMax',
    'IsOccluded', 'IsTruncated', 'IsGroupOf', 'IsDepiction', 'IsInside',
)  # fmt: skip
# What the parts are called in the names of the published files; of training v6 renewed the boxes alone.
PARTS = {'train': 'train', 'val': 'validation'}


def write_csv(path: Path, rows: list) -> None:
    """Write a table."""
    with path.open('w', newline='') as file:
        csv.writer(file).writerows(rows)


def write(root: Path) -> None:
    """Write ``{train,val}/*.jpg`` and below ``annotations`` the tables, the hierarchy, sizes for mmdet, COCO jsons.

    Boxes in the tables are shares of the sides; one box in three is a group.
    """
    rng = np.random.default_rng(0)
    folder = root / 'annotations'
    folder.mkdir(parents=True)
    names = oid_v6_classes()
    machine_ids = [f'/m/0{i:05x}' for i in range(len(names))]
    write_csv(folder / 'class-descriptions-boxable.csv', list(zip(machine_ids, names, strict=True)))
    children = [dict(LabelName=name) for name in machine_ids[2:]]
    parent = dict(LabelName=machine_ids[1], Subcategory=[dict(LabelName=machine_ids[0])])
    hierarchy = dict(LabelName='/m/0bl9f', Subcategory=[parent, *children])
    (folder / 'bbox_labels_600_hierarchy.json').write_text(json.dumps(hierarchy))
    for part, prefix in PARTS.items():
        boxes_table, labels_table, sizes = [BOX_COLUMNS], [('ImageID', 'Source', 'LabelName', 'Confidence')], []
        file = CocoFile(dict(enumerate(names, start=1)))
        for i in range(4):
            image, size = f'{int(rng.integers(1 << 62)):016x}', SIZES[i % len(SIZES)]
            boxes = random_boxes(rng, size, 3)
            save(paint(rng, size, [corners_of(box) for box in boxes]), root / part / f'{image}.jpg')
            file.add_image(i + 1, f'{image}.jpg', size)
            sizes.append(dict(filename=f'{image}.jpg', ori_shape=(size[1], size[0], 3)))
            for j, (label, box) in enumerate(zip(rng.integers(0, len(names), 3).tolist(), boxes, strict=True)):
                x1, y1, x2, y2 = box / np.tile(size, 2)
                group = int(j == 2)
                boxes_table.append((image, 'xclick', machine_ids[label], 1, x1, x2, y1, y2, 0, 0, group, 0, 0))
                labels_table.append((image, 'verification', machine_ids[label], 1))
                file.add_box(i + 1, label + 1, box, iscrowd=group, segmentation=[])
            labels_table.append((image, 'verification', machine_ids[i], 0))  # looked for, not there
        boxes_name = f'{prefix}-annotations-bbox.csv'
        write_csv(folder / (f'oidv6-{boxes_name}' if part == 'train' else boxes_name), boxes_table)
        write_csv(folder / f'{prefix}-annotations-human-imagelabels-boxable.csv', labels_table)
        (folder / f'{prefix}-image-metas.pkl').write_bytes(pickle.dumps(sizes))
        file.write(folder / f'oidv6_{part}_bbox_coco.json')
