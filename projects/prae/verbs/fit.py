"""The verb ``fit``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping

import numpy as np

from ..boxes.average_precision import coco_scores
from ..boxes.tables import Detections, GroundTruth
from ..calibration.detectors import Calibration
from ..calibration.file import save
from ..calibration.fit import fit, targets
from ..calibration.options import FIT_PRESETS, LEVELS, MATCHES, TARGETS, TRANSFORMS, fit_config
from ..calibration.reliability import d_ece, ece
from ..files.inputs import read_annotations, read_detections
from .arguments import given, parse_named
from .plots import plot_reliability

LOGGER = logging.getLogger('mmplugins.prae')
FEW_IMAGES = 200  # below it curves were unsteady on VOC2007, see the README


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
    """Fit curves, write the calibration file, and print what they do to each detector."""
    gt = read_annotations(args.ann)
    files = parse_named(args.det)
    names = ('per_category', 'target', 'match', 'levels', 'theta', 'shrink', 'score_transform')
    cfg = fit_config(args.preset, **given(args, names))
    tables = {name: read_detections(path, gt.dataset, name) for name, path in files.items()}
    if len(gt.dataset) < FEW_IMAGES:
        LOGGER.warning('%d fit images are few; %d or more are advised', len(gt.dataset), FEW_IMAGES)
    calib = fit(tables, gt, cfg, preset=args.preset)
    save(calib, args.out)
    if args.plot:
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
