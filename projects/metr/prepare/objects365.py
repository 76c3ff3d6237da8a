"""Objects365 v2: file names as the archives unpack, one spelling of the names, no box twice.

The published json calls a picture ``images/v1/patch8/x.jpg`` that the archives unpack to ``patch8/x.jpg``. Its names
are misspelled here and there, and a script of mmdet writes files with others; the vocabulary knows one spelling, that
of mmdet's data set, and a config puts it right by ``aliases``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdet.datasets.objects365 import Objects365V2Dataset, objv2_ignore_list

from ..data.coco_json import check_lists, read_json
from .report import without_absent, write_and_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the part."""
    parser.add_argument('root', type=Path, help='folder with train/, val/ and annotations/zhiyuan_objv2_*.json')
    parser.add_argument('--parts', nargs='+', default=('train', 'val'), help='default: train val')


def run(args: argparse.Namespace) -> None:
    """Write ``annotations/objects365v2_<part>.json``, which needs no ``name_parts``."""
    for part in args.parts:
        path = args.root / f'annotations/zhiyuan_objv2_{part}.json'
        content = read_json(path)
        check_lists(content, path)
        left_out = clean(content, args.root / part)
        write_and_report(args.root / f'annotations/objects365v2_{part}.json', content, left_out)


def clean(content: dict, folder: Path) -> dict[str, int]:
    """Put the content of a file right, in place.

    Args:
        content: Of the published json, or of one that mmdet's script has made of it.
        folder: Of the pictures of this part.

    Returns:
        What was left out, and how often.

    Raises:
        ValueError: The categories are not the 365 of the second release.
    """
    names = Objects365V2Dataset.METAINFO['classes']
    ids = sorted(category['id'] for category in content['categories'])
    if ids != list(range(1, len(names) + 1)):
        raise ValueError(f'Objects365 v2 has the categories 1 to {len(names)}, this file has {ids[:3]}…{ids[-3:]}')
    for category in content['categories']:
        category['name'] = names[category['id'] - 1]
    content['categories'].sort(key=lambda category: category['id'])
    for image in content['images']:
        image['file_name'] = '/'.join(image['file_name'].split('/')[-2:])
    total = len(content['images'])
    bad = set(objv2_ignore_list)
    good = [image for image in content['images'] if image['file_name'] not in bad]
    content['images'], absent = without_absent(good, folder)
    kept = {image['id'] for image in content['images']}
    annotations, seen = [], set()
    orphans = 0
    for annotation in content['annotations']:
        key = (annotation['image_id'], annotation['category_id'], *annotation['bbox'])
        if annotation['image_id'] not in kept:
            orphans += 1
        elif key not in seen:
            seen.add(key)
            annotations.append(annotation)
    twice = len(content['annotations']) - len(annotations) - orphans
    content['annotations'] = annotations
    return {
        "images of mmdet's list of bad ones": total - len(good),
        'images that are in no folder': absent,
        'boxes of these images': orphans,
        'boxes that were there already': twice,
    }
