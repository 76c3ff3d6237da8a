"""The verb ``split``."""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path, PurePosixPath

from ...utils.atomic import write_text
from ..files.coco import read_ground_truth, read_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``split``."""
    parser.add_argument('--ann', required=True, help='COCO annotation file')
    parser.add_argument('--fit-fraction', type=float, default=0.5, help='share of the images to fit on (default 0.5)')
    parser.add_argument('--seed', type=int, default=0)
    text = 'keep images together that share a folder, or a field `video_id` or `seq_id`'
    parser.add_argument('--group-by', choices=('folder', 'sequence'), help=text)
    parser.add_argument('-o', '--out', required=True, help='prefix: <prefix>_fit.json and <prefix>_test.json')


def run(args: argparse.Namespace) -> None:
    """Split the images of a COCO file at random, and write both parts as COCO files."""
    if not 0 < args.fit_fraction < 1:
        raise ValueError(f'--fit-fraction is {args.fit_fraction}; it must be between 0 and 1')
    read_ground_truth(args.ann)  # refuses what is broken
    data = read_json(args.ann)
    groups = defaultdict(list)
    for image in sorted(data['images'], key=lambda image: image['id']):
        groups[_group(image, args.group_by)].append(image['id'])
    keys = list(groups)
    random.Random(args.seed).shuffle(keys)
    fit_ids: set = set()
    wanted = args.fit_fraction * len(data['images'])
    for key in keys:
        # A group goes to the fit part if that brings it nearer to the wanted size.
        if abs(len(fit_ids) + len(groups[key]) - wanted) < abs(len(fit_ids) - wanted):
            fit_ids.update(groups[key])
    if not 0 < len(fit_ids) < len(data['images']):
        raise ValueError(f'{len(groups)} groups of images cannot be split at {args.fit_fraction}')
    texts = {}
    for part, inside in (('fit', True), ('test', False)):
        chosen = {
            'images': [image for image in data['images'] if (image['id'] in fit_ids) == inside],
            'annotations': [a for a in data['annotations'] if (a['image_id'] in fit_ids) == inside],
        }
        texts[f'{args.out}_{part}.json'] = json.dumps({**data, **chosen})
        print(f'{len(chosen["images"])} images, {len(chosen["annotations"])} objects: {args.out}_{part}.json')
    for path, text in texts.items():
        write_text(path, text)


def _group(image: dict, by: str | None) -> object:
    """What an image is kept together with."""
    if by is None:
        return image['id']
    if by == 'folder':
        return str(PurePosixPath(Path(image.get('file_name', '')).as_posix()).parent)
    for key in ('video_id', 'seq_id', 'sequence_id', 'sequence'):
        if key in image:
            return image[key]
    raise ValueError(f'image {image["id"]} has no video_id, seq_id, sequence_id or sequence to group by')
