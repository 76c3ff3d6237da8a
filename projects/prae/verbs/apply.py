"""The verb ``apply``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path

from ...utils.atomic import write_text
from ..calibration.file import load, overlap, warn_about_overlap
from ..files.inputs import write_detections
from ..fusion.fuse import fuse
from ..fusion.options import COUNTS, HEADS
from .arguments import add_inputs, given, parse_named, read_named

LOGGER = logging.getLogger('mmplugins.prae')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``apply``."""
    parser.add_argument('calibration', help='file that `fit` or `tune` wrote; what is not given below is as it says')
    add_inputs(parser, 'the test images; annotations are not needed')
    parser.add_argument('-o', '--out', required=True, help='.json, .json.gz or a folder for VOC text files')
    parser.add_argument('--head', choices=HEADS)
    parser.add_argument('--iou-thr', type=float)
    parser.add_argument('--max-per-img', type=int)
    parser.add_argument('--weights', type=float, nargs='+', help='of the detectors, in the order of --det')
    text = 'of their corners; default: those of the calibration, not --weights'
    parser.add_argument('--corner-weights', type=float, nargs='+', help=text)
    parser.add_argument('--skip-below', type=float, help='leave out boxes with lower refined scores')
    parser.add_argument('--count', choices=COUNTS, help='what a fused score of wbf counts')
    parser.add_argument('--min-models', type=int, help='drop boxes on which fewer detectors agree')
    parser.add_argument('--sigma', type=float, help='width of the Gaussian of soft_nms')


def run(args: argparse.Namespace) -> None:
    """Refine and fuse the boxes of test images."""
    calib = load(args.calibration).select(list(parse_named(args.det)))
    gt, tables = read_named(args, need_annotations=False)
    calib = calib.for_classes(gt.dataset.classes)
    leaked = overlap(calib, gt.dataset)
    warn_about_overlap(leaked, len(gt.dataset))
    names = (
        'head',
        'iou_thr',
        'max_per_img',
        'weights',
        'corner_weights',
        'skip_below',
        'count',
        'min_models',
        'sigma',
    )
    cfg = dataclasses.replace(calib.fusion, **given(args, names))
    LOGGER.info('fusing %d boxes', sum(map(len, tables.values())))
    out = fuse(list(tables.values()), calib, cfg, gt.dataset.sizes)
    write_detections(out, gt.dataset, args.out)
    about = dict(
        calibration=Path(args.calibration).name,
        detectors=list(calib.names),
        fusion=dataclasses.asdict(cfg),
        test_images=len(gt.dataset),
        fit_images_among_them=leaked,
    )
    write_text(sidecar(args.out), json.dumps(about, indent=1) + '\n')
    print(f'{len(out)} boxes on {len(gt.dataset)} images written to {args.out}')


def sidecar(path: str) -> Path:
    """File beside an output that says how it was made."""
    return Path(f'{path}.about.json')
