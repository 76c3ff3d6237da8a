"""LVIS v1: nothing is written, the data set reads the published files; this says whether all is there."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data.coco_json import CheckedCOCO
from .report import describe, without_absent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the part."""
    parser.add_argument('root', type=Path, help='folder with train2017/, val2017/ and annotations/lvis_v1_*.json')
    parser.add_argument('--parts', nargs='+', default=('train', 'val'), help='default: train val')


def run(args: argparse.Namespace) -> None:
    """Print the counts of each file, and of pictures that are in no folder."""
    for part in args.parts:
        path = args.root / f'annotations/lvis_v1_{part}.json'
        content = CheckedCOCO(path).dataset
        absent = without_absent(content['images'], args.root)[1]
        print(f'{path}: {describe(content)}; {absent} images are in no folder')
