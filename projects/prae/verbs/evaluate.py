"""The verb ``eval``."""

from __future__ import annotations

import argparse

import numpy as np

from ..boxes.average_precision import coco_scores
from ..boxes.tables import Detections, GroundTruth
from ..calibration.file import warn_about_overlap
from ..files.coco import read_json
from ..files.inputs import read_annotations, read_detections
from .apply import sidecar
from .arguments import add_classes, parse_classes
from .plots import plot_precision_recall


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``eval``."""
    parser.add_argument('files', nargs='+', help='detections, of one detector or fused')
    parser.add_argument('--ann', required=True, help='COCO annotation file, or folder of VOC XML')
    add_classes(parser)
    parser.add_argument('--voc', action='store_true', help='also AP50 as VOC2010 has it, by mmdet; difficult left out')
    parser.add_argument('--plot', metavar='FILE', help='picture of precision and recall')


def run(args: argparse.Namespace) -> None:
    """Print COCO scores of all files, one line for each."""
    gt, classes = read_annotations(args.ann), parse_classes(args.classes)
    tables = {}
    for path in args.files:
        tables[path] = read_detections(path, gt.dataset, classes=classes, first_class=args.first_class)
        about = sidecar(path)
        if about.is_file():
            made = read_json(about)
            warn_about_overlap(made.get('fit_images_among_them', 0), made.get('test_images', 0))
    columns = ['mAP', 'AP50', 'AP75', 'mAP_s', 'mAP_m', 'mAP_l', *(['VOC AP50'] if args.voc else [])]
    print('| file | boxes | ' + ' | '.join(columns) + ' |')
    print('|' + ' --- |' * (len(columns) + 2))
    for path, table in tables.items():
        scores = coco_scores(table, gt, sizes=True)
        if args.voc:
            scores['VOC AP50'] = voc_ap50(table, gt)
        values = (f'{scores[name]:.2f}' if scores[name] >= 0 else '–' for name in columns)
        print(f'| {path} | {len(table)} | ' + ' | '.join(values) + ' |')
    if args.plot:
        plot_precision_recall(tables, gt, args.plot)


def voc_ap50(table: Detections, gt: GroundTruth) -> float:
    """AP at IoU 0.5 in percent, area under the curve, ignored objects left out; by mmdet's ``eval_map``."""
    from mmdet.evaluation.functional import eval_map

    num_classes = len(gt.dataset.classes)
    results, annotations = [], []
    det_bounds = np.searchsorted(table.image, np.arange(len(gt.dataset) + 1))  # tables are sorted by image
    for image, (start, stop) in enumerate(zip(det_bounds[:-1], det_bounds[1:], strict=True)):
        part = table.select(slice(start, stop))
        rows = np.concatenate([part.box, part.score[:, None]], axis=1).astype(np.float32)
        results.append([rows[part.category == label] for label in range(num_classes)])
        mine = gt.select(gt.image == image)
        annotations.append(
            dict(
                bboxes=mine.box[~mine.ignore].astype(np.float32),
                labels=mine.category[~mine.ignore],
                bboxes_ignore=mine.box[mine.ignore].astype(np.float32),
                labels_ignore=mine.category[mine.ignore],
            )
        )
    mean, _ = eval_map(results, annotations, iou_thr=0.5, logger='silent', nproc=1)
    return 100 * float(mean)
