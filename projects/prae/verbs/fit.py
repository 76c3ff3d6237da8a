"""The verb ``fit``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping

from ..boxes.average_precision import coco_scores
from ..boxes.tables import GroundTruth
from ..calibration.file import save
from ..calibration.fit import fit
from ..calibration.options import FIT_PRESETS, LEVELS, MATCHES, TARGETS, TRANSFORMS, fit_config
from ..tuning.held_out import Held, calibrate_fused, hold_out
from .arguments import add_inputs, given, read_named
from .plots import plot_reliability

LOGGER = logging.getLogger('mmplugins.prae')
FEW_IMAGES = 200  # below it curves were unsteady on VOC2007, see the README


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``fit``."""
    add_inputs(parser, 'the fit images')
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
    gt, tables = read_named(args)
    names = ('per_category', 'target', 'match', 'levels', 'theta', 'shrink', 'score_transform')
    cfg = fit_config(args.preset, **given(args, names))
    if len(gt.dataset) < FEW_IMAGES:
        LOGGER.warning('%d fit images are few; %d or more are advised', len(gt.dataset), FEW_IMAGES)
    held = hold_out(tables, gt, cfg)
    calib, fused = calibrate_fused(fit(tables, gt, cfg), held, gt)
    save(calib, args.out)
    if args.plot:
        plot_reliability(held, args.plot)
    print(report(held if fused is None else {**held, 'fused': fused}, gt))
    print(f'written to {args.out}')


def report(held: Mapping[str, Held], gt: GroundTruth) -> str:
    """Table of the detectors: boxes, AP, and calibration errors before and after, by curves of other images."""
    measures = {name: one.errors(gt) for name, one in held.items()}
    errors = list(dict.fromkeys(error for found in measures.values() for error in found))
    heads = ''.join(f' {error} raw | refined |' for error in errors)
    lines = [f'| detector | boxes |{heads} mAP | AP50 |', '|' + ' --- |' * (4 + 2 * len(errors))]
    for name, one in held.items():
        cells = ['–' if value is None else f'{value:.3f}' for error in errors for value in measures[name][error]]
        scores = coco_scores(one.table, gt) if gt.box.shape[1] == 4 else {}
        cells += [f'{scores[key]:.1f}' if scores else '–' for key in ('mAP', 'AP50')]
        lines.append(f'| {name} | {len(one.table)} | ' + ' | '.join(cells) + ' |')
    return '\n'.join([*lines, 'Errors are of images that the curves were not fitted on; what is right is the target.'])
