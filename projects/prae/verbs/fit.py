"""The verbs ``fit`` and ``apply``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...utils.atomic import write_text
from ..boxes.average_precision import coco_scores
from ..boxes.tables import Detections, GroundTruth
from ..calibration.detectors import Calibration
from ..calibration.file import load, overlap, save, warn_about_overlap
from ..calibration.fit import fit, targets
from ..calibration.options import FIT_PRESETS, HEADS, LEVELS, MATCHES, TARGETS, TRANSFORMS, fit_config, fuse_config
from ..calibration.reliability import d_ece, ece
from ..files.inputs import parse_named, read_annotations, read_detections, write_detections
from ..fusion.fuse import fuse

LOGGER = logging.getLogger('mmplugins.prae')
FEW_IMAGES = 200  # below it curves were unsteady on VOC2007, see the README


def add_fit_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``fit``."""
    parser.add_argument('--ann', required=True, help='COCO annotation file, or folder of VOC XML, of the fit images')
    parser.add_argument('--det', action='append', required=True, metavar='NAME=FILE', help='once for each detector')
    parser.add_argument('--preset', choices=sorted(FIT_PRESETS), default='robust')
    parser.add_argument('-o', '--out', required=True, help='calibration file to write')
    parser.add_argument('--per-category', action='store_true', default=None, help='a curve for each frequent category')
    parser.add_argument('--target', choices=TARGETS, help='what counts as right')
    parser.add_argument('--match', choices=MATCHES)
    parser.add_argument('--levels', choices=LEVELS)
    parser.add_argument('--theta', type=float, help='weight of the upper confidence bound')
    parser.add_argument('--shrink', type=float, help='boxes that the prior counts as')
    parser.add_argument('--score-transform', choices=[name for name in TRANSFORMS if name], help='for fixed levels')
    parser.add_argument('--plot', metavar='FILE', help='picture of the curves before and after')


def run_fit(args: argparse.Namespace) -> None:
    """Fit curves, write the calibration file, and print what they do to each detector."""
    gt = read_annotations(args.ann)
    files = parse_named(args.det)
    names = ('per_category', 'target', 'match', 'levels', 'theta', 'shrink', 'score_transform')
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    cfg = fit_config(args.preset, **options)
    tables = {name: read_detections(path, gt.dataset, name) for name, path in files.items()}
    if len(gt.dataset) < FEW_IMAGES:
        LOGGER.warning('%d fit images are few; %d or more are advised', len(gt.dataset), FEW_IMAGES)
    calib = fit(tables, gt, cfg, preset=args.preset)
    save(calib, args.out)
    if args.plot:
        from .plots import plot_reliability

        plot_reliability(calib, tables, gt, args.plot)
    print(fit_report(calib, tables, gt))
    print(f'written to {args.out}')


def fit_report(calib: Calibration, tables: Mapping[str, Detections], gt: GroundTruth) -> str:
    """Table of the detectors: boxes, levels, calibration errors before and after (on the fit images), AP."""
    lines = ['| detector | boxes | levels | ECE raw | refined | D-ECE raw | refined | mAP | AP50 |', '|' + ' --- |' * 9]
    for index, (name, table) in enumerate(tables.items()):
        value, counts = targets(table, gt, calib.cfg)
        cells = []
        for measure in (ece, d_ece):
            for score in (table.score, calib.refine(index, table.score, table.category)):
                use = counts & np.isfinite(score)
                if len(table) and (table.score.min() < 0 or table.score.max() > 1) and score is table.score:
                    cells.append('–')  # no probability
                elif measure is d_ece:
                    cells.append(
                        f'{d_ece(score[use], value[use], table.box[use], gt.dataset.sizes[table.image[use]]):.3f}'
                    )
                else:
                    cells.append(f'{ece(score[use], value[use]):.3f}')
        scores = coco_scores(table, gt)
        levels = len(calib.detectors[index].curve.levels.sp)
        ap = f'{scores["mAP"]:.1f} | {scores["AP50"]:.1f}'
        lines.append(f'| {name} | {len(table)} | {levels} | {" | ".join(cells)} | {ap} |')
    return '\n'.join(lines)


def add_apply_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``apply``."""
    parser.add_argument('calibration', help='file that `fit` wrote')
    parser.add_argument('--ann', required=True, help='COCO file of the test images; annotations are not needed')
    parser.add_argument('--det', action='append', required=True, metavar='NAME=FILE', help='once for each detector')
    parser.add_argument('-o', '--out', required=True, help='.json, .json.gz or a folder for VOC text files')
    parser.add_argument('--head', choices=HEADS, default='wbf')
    parser.add_argument('--iou-thr', type=float, help='default 0.55; 0.7 for the preset official')
    parser.add_argument('--max-per-img', type=int, default=100)
    parser.add_argument('--weights', type=float, nargs='+', help='of the detectors, in the order of --det; default 1')
    parser.add_argument('--count', choices=('boxes', 'models'), help='what a fused score of wbf counts')
    parser.add_argument('--min-models', type=int, help='drop boxes on which fewer detectors agree')
    parser.add_argument('--sigma', type=float, help='of soft_nms')


def run_apply(args: argparse.Namespace) -> None:
    """Refine and fuse the boxes of test images."""
    calib = load(args.calibration)
    files = parse_named(args.det)
    calib = calib.select(list(files))
    gt = read_annotations(args.ann, need_annotations=False)
    calib = calib.for_classes(gt.dataset.classes)
    leaked = overlap(calib, gt.dataset)
    warn_about_overlap(leaked, len(gt.dataset))
    names = ('iou_thr', 'weights', 'count', 'min_models', 'sigma')
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    preset = calib.preset if calib.preset in FIT_PRESETS else 'robust'
    cfg = fuse_config(preset, head=args.head, max_per_img=args.max_per_img, **options)
    tables = []
    for name, path in files.items():
        LOGGER.info('reading %s', path)
        tables.append(read_detections(path, gt.dataset, name))
    if cfg.head not in ('nms', 'soft_nms') and any(table.mask is not None for table in tables):
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
