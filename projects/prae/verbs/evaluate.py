"""The verbs ``eval`` and ``split``."""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from ...utils.atomic import write_text
from ..boxes.average_precision import coco_scores
from ..boxes.tables import Detections, GroundTruth
from ..calibration.file import warn_about_overlap
from ..files.coco import read_ground_truth, read_json
from ..files.inputs import read_annotations, read_detections
from .fit import sidecar


def add_eval_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``eval``."""
    parser.add_argument('files', nargs='+', help='detections, of one detector or fused')
    parser.add_argument('--ann', required=True, help='COCO annotation file, or folder of VOC XML')
    parser.add_argument('--voc', action='store_true', help='also AP50 as VOC2010 has it, by mmdet; difficult left out')
    parser.add_argument('--plot', metavar='FILE', help='picture of precision and recall')


def run_eval(args: argparse.Namespace) -> None:
    """Print COCO scores of all files, one line for each."""
    gt = read_annotations(args.ann)
    tables = {}
    for path in args.files:
        tables[path] = read_detections(path, gt.dataset)
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
        from .plots import plot_precision_recall

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


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``split``."""
    parser.add_argument('--ann', required=True, help='COCO annotation file')
    parser.add_argument('--fit-fraction', type=float, default=0.5, help='share of the images to fit on (default 0.5)')
    parser.add_argument('--seed', type=int, default=0)
    text = 'keep images together that share a folder, or a field `video_id` or `seq_id`'
    parser.add_argument('--group-by', choices=('folder', 'sequence'), help=text)
    parser.add_argument('-o', '--out', required=True, help='prefix: <prefix>_fit.json and <prefix>_test.json')


def run_split(args: argparse.Namespace) -> None:
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
