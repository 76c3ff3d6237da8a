"""The verb ``apply``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path

from ...utils.atomic import write_text
from ..calibration.file import load, overlap, warn_about_overlap
from ..files.inputs import read_annotations, read_detections, write_detections
from ..fusion.fuse import fuse
from ..fusion.options import COUNTS, FUSE_PRESETS, HEADS, KEEPING, fuse_config
from .arguments import given, parse_named

LOGGER = logging.getLogger('mmplugins.prae')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``apply``."""
    parser.add_argument('calibration', help='file that `fit` wrote')
    parser.add_argument('--ann', required=True, help='COCO file of the test images; annotations are not needed')
    parser.add_argument('--det', action='append', required=True, metavar='NAME=FILE', help='once for each detector')
    parser.add_argument('-o', '--out', required=True, help='.json, .json.gz or a folder for VOC text files')
    parser.add_argument('--head', choices=HEADS, default='wbf')
    parser.add_argument('--iou-thr', type=float, help='default 0.55; 0.7 for the preset official')
    parser.add_argument('--max-per-img', type=int, default=100)
    parser.add_argument('--weights', type=float, nargs='+', help='of the detectors, in the order of --det; default 1')
    parser.add_argument('--count', choices=COUNTS, help='what a fused score of wbf counts')
    parser.add_argument('--min-models', type=int, help='drop boxes on which fewer detectors agree')
    parser.add_argument('--sigma', type=float, help='of soft_nms')


def run(args: argparse.Namespace) -> None:
    """Refine and fuse the boxes of test images."""
    calib = load(args.calibration)
    files = parse_named(args.det)
    calib = calib.select(list(files))
    gt = read_annotations(args.ann, need_annotations=False)
    calib = calib.for_classes(gt.dataset.classes)
    leaked = overlap(calib, gt.dataset)
    warn_about_overlap(leaked, len(gt.dataset))
    options = given(args, ('iou_thr', 'weights', 'count', 'min_models', 'sigma'))
    preset = calib.preset if calib.preset in FUSE_PRESETS else 'robust'
    cfg = fuse_config(preset, head=args.head, max_per_img=args.max_per_img, **options)
    tables = []
    for name, path in files.items():
        LOGGER.info('reading %s', path)
        tables.append(read_detections(path, gt.dataset, name))
    if cfg.head not in KEEPING and any(table.mask is not None for table in tables):
        raise ValueError(f'the files have masks, which {cfg.head} cannot merge: use --head nms')
    LOGGER.info('fusing %d boxes', sum(map(len, tables)))
    out = fuse(tables, calib, cfg, gt.dataset.sizes)
    write_detections(out, gt.dataset, args.out)
    about = dict(
        calibration=Path(args.calibration).name,
        detectors=list(files),
        fusion=dataclasses.asdict(cfg),
        test_images=len(gt.dataset),
        fit_images_among_them=leaked,
    )
    write_text(sidecar(args.out), json.dumps(about, indent=1) + '\n')
    print(f'{len(out)} boxes on {len(gt.dataset)} images written to {args.out}')


def sidecar(path: str) -> Path:
    """File beside an output that says how it was made."""
    return Path(f'{path}.about.json')
