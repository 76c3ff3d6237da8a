"""OpenImages v6: tables to COCO's format, with what was verified for each image.

Boxes of OpenImages are exhaustive for the labels that people have verified as present in an image, and for the most
specific one only: where "Man" has boxes, those of "Person" are not all there. Labels verified as absent are absent with
all that lies below them in the hierarchy. Of all other labels nothing is known (arXiv 1811.00982, section 3).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from ..data.federated import NEGATIVE, PARTLY_BOXED
from .report import without_absent, write_and_report

BOXES = {
    'train': 'oidv6-train-annotations-bbox.csv',
    'val': 'validation-annotations-bbox.csv',
    'test': 'test-annotations-bbox.csv',
}
LABELS = {
    'train': 'train-annotations-human-imagelabels-boxable.csv',
    'val': 'validation-annotations-human-imagelabels-boxable.csv',
    'test': 'test-annotations-human-imagelabels-boxable.csv',
}
"""Part to its tables, as v6 publishes them: new boxes of the training part, all else from v5."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the part."""
    parser.add_argument('root', type=Path, help='folder with train/, val/ and the published tables in annotations/')
    parser.add_argument('--parts', nargs='+', default=('train', 'val'), choices=BOXES, help='default: train val')


def run(args: argparse.Namespace) -> None:
    """Write ``annotations/oidv6_<part>_bbox_coco.json``."""
    folder = args.root / 'annotations'
    with open(folder / 'class-descriptions-boxable.csv', encoding='utf-8', newline='') as file:
        names = dict(csv.reader(file))
    above = ancestors(json.loads((folder / 'bbox_labels_600_hierarchy.json').read_text(encoding='utf-8')), names)
    for part in args.parts:
        content, left_out = convert(folder / BOXES[part], folder / LABELS[part], args.root / part, names, above)
        write_and_report(folder / f'oidv6_{part}_bbox_coco.json', content, left_out)


def ancestors(tree: Mapping, names: Mapping[str, str]) -> dict[str, set[str]]:
    """Return all labels above each label that is among the names; a label may stand in several places of the tree."""
    above: dict[str, set[str]] = defaultdict(set)

    def walk(node: Mapping, path: tuple[str, ...]) -> None:
        label = node['LabelName']
        if label in names:
            above[label].update(path)
            path = (*path, label)
        for child in node.get('Subcategory', ()):
            walk(child, path)

    walk(tree, ())
    return above


def convert(
    boxes: Path, labels: Path, folder: Path, names: Mapping[str, str], above: Mapping[str, set[str]]
) -> tuple[dict, dict[str, int]]:
    """Return the content of a COCO file and what was left out of it.

    Args:
        boxes: Table of the boxes, whose corners are shares of the sides.
        labels: Table of the labels that people have verified; confidence 1 present, 0 absent.
        folder: Of the pictures, whose sizes are in no table.
        names: Machine-readable label to name, in order.
        above: From :func:`ancestors`.

    Raises:
        ValueError: A table has a label that is not among the names.
    """
    ids = {label: number for number, label in enumerate(names, start=1)}
    below = defaultdict(set)
    for label, parents in above.items():
        for parent in parents:
            below[parent].add(label)
    verified: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in _table(labels, ids):
        verified[row['ImageID']][row['LabelName']] = float(row['Confidence']) > 0.5
    rows = defaultdict(list)
    for row in _table(boxes, ids):
        rows[row['ImageID']].append(row)

    listed = [dict(file_name=f'{name}.jpg') for name in dict.fromkeys([*rows, *verified])]
    images, absent = without_absent(listed, folder)
    annotations = []
    for number, image in enumerate(images, start=1):
        name = image['file_name'].removesuffix('.jpg')
        with Image.open(folder / image['file_name']) as picture:
            width, height = picture.size
        present = {label for label, there in verified[name].items() if there}
        present.update(row['LabelName'] for row in rows[name])
        negative = {label for label, there in verified[name].items() if not there}
        negative |= {child for label in negative for child in below[label]}
        general = {parent for label in present for parent in above.get(label, ())}
        image.update(id=number, width=width, height=height)
        image[NEGATIVE] = sorted(ids[label] for label in negative - present - general)
        image[PARTLY_BOXED] = sorted(ids[label] for label in general)
        for row in rows[name]:
            x1, x2, y1, y2 = (float(row[key]) for key in ('XMin', 'XMax', 'YMin', 'YMax'))
            box = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=ids[row['LabelName']],
                    bbox=[round(value, 3) for value in box],
                    area=round(box[2] * box[3], 3),
                    iscrowd=int(row['IsGroupOf'] == '1'),
                )
            )
    categories = [
        dict(id=number, name=names[label], parents=sorted(ids[parent] for parent in above.get(label, ())))
        for label, number in ids.items()
    ]
    return dict(images=images, annotations=annotations, categories=categories), {'images that are in no folder': absent}


def _table(path: Path, ids: Mapping[str, int]) -> Iterator[dict[str, str]]:
    """Yield the rows of a table by the names in its first line."""
    with open(path, encoding='utf-8', newline='') as file:
        for row in csv.DictReader(file):
            if row['LabelName'] not in ids:
                raise ValueError(
                    f'{path} has the label {row["LabelName"]}, which class-descriptions-boxable.csv has not'
                )
            yield row
