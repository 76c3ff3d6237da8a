"""Arguments that several verbs have, and what they name."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..boxes.tables import Detections, GroundTruth
from ..calibration.detectors import check_names
from ..files.inputs import read_annotations, read_detections

LOGGER = logging.getLogger('mmplugins.prae')


def add_inputs(parser: argparse.ArgumentParser, images: str, required: bool = True) -> None:
    """Arguments ``--ann``, ``--det``, ``--drop-masks`` and those of :func:`add_classes`."""
    parser.add_argument('--ann', required=required, help=f'COCO annotation file, or folder of VOC XML, of {images}')
    parser.add_argument(
        '--det', action='append', required=required, metavar='NAME=FILE', help='once for each detector, see the README'
    )
    add_classes(parser)
    parser.add_argument('--drop-masks', action='store_true', help='fuse boxes only')


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Arguments ``--classes`` and ``--first-class``."""
    text = 'names of labels 0, 1, …, or a file with a name a line; for files that have numbers only'
    parser.add_argument('--classes', metavar='NAME,NAME', help=text)
    text = 'number of the first of --classes in .json files that have neither 0 nor the number of classes'
    parser.add_argument('--first-class', type=int, choices=(0, 1), help=text)


def read_named(args: argparse.Namespace, need_annotations: bool = True) -> tuple[GroundTruth, dict[str, Detections]]:
    """Read what ``--ann`` and ``--det`` name."""
    files, classes = parse_named(args.det), parse_classes(args.classes)
    gt = read_annotations(args.ann, need_annotations)
    tables = {}
    for name, path in files.items():
        LOGGER.info('reading %s', path)
        table = read_detections(path, gt.dataset, name, classes, args.first_class)
        tables[name] = replace(table, mask=None) if args.drop_masks else table
    return gt, tables


def parse_named(pairs: Sequence[str]) -> dict[str, str]:
    """Split ``NAME=FILE`` arguments.

    Raises:
        ValueError: If one has no ``=``, or two have one name.
    """
    wrong = [pair for pair in pairs if not all(pair.partition('=')[::2])]
    if wrong:
        raise ValueError(f'--det {wrong[0]}: expected NAME=FILE')
    check_names([pair.partition('=')[0] for pair in pairs])
    return dict(pair.split('=', 1) for pair in pairs)


def parse_classes(text: str | None) -> tuple[str, ...] | None:
    """Names in order: between commas, or the lines of a file."""
    if text is None:
        return None
    names = Path(text).read_text(encoding='utf-8').splitlines() if Path(text).is_file() else text.split(',')
    return tuple(name.strip() for name in names if name.strip())


def given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, object]:
    """Return those of the options that the user gave; the others are the preset's."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
