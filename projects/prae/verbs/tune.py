"""The verb ``tune``: settings of the fusion for one's own detectors, and what they gain on images held out."""

from __future__ import annotations

import argparse

from ..calibration.file import save
from ..tuning.folds import make_folds
from ..tuning.held_out import calibrate_fused
from ..tuning.search import Setting, tune
from .arguments import add_inputs, read_named
from .compare import METHODS, compare_set, markdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tune``."""
    add_inputs(parser, 'the fit images')
    parser.add_argument('-o', '--out', required=True, help='calibration file to write')
    parser.add_argument('--resamples', type=int, default=200, help='of the bootstrap (default 200); 0: no intervals')


def run(args: argparse.Namespace) -> None:
    """Search curves, head, IoU and weights; print the gain over weighted boxes fusion, write the calibration file.

    The gain is that of the search, on images that it did not see: each half of the images is tested with what was found
    on the other. The file is of a search on all images.
    """
    gt, tables = read_named(args)
    if len(gt.dataset) < 4:
        raise ValueError(f'{args.ann} has {len(gt.dataset)} images; at least 4 are needed for two halves')
    names = list(tables)
    results = compare_set(make_folds(gt, tables), names, resamples=args.resamples)
    print(markdown({'all': names}, {'all': results}, METHODS))
    _, calib, held = tune(tables, gt)
    curves = any(detector.curve.kind != 'identity' for detector in calib.detectors)
    if curves:
        calib, _ = calibrate_fused(calib, held, gt)
    save(calib, args.out)
    print(f'settings: {Setting(curves, calib.fusion).line(names)}')
    print(f'written to {args.out}: `apply {args.out}` uses them')
