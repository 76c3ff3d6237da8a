"""Average precision by faster-coco-eval or pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy import ndarray

from .tables import Detections, GroundTruth

RECALLS = np.linspace(0, 1, 101)


def coco_scores(table: Detections, gt: GroundTruth, sizes: bool = False) -> dict[str, float]:
    """COCO's summary of upright boxes, in percent: ``mAP``, ``AP50``, ``AP75``; ``mAP_s``, ``mAP_m``, ``mAP_l``.

    Ignored objects, difficult ones among them, count as crowds: COCO's tools know no other way to ignore an object.

    Args:
        table: At most 100 boxes of an image and category count.
        gt: Ground truth.
        sizes: Whether AP of small, medium and large objects is wanted too; four times the work.

    Raises:
        ImportError: If neither faster-coco-eval nor pycocotools is installed.
        ValueError: If boxes are rotated.
    """
    precision, areas = coco_precision(table, gt, sizes)
    if precision is None:
        return dict.fromkeys(('mAP', 'AP50', 'AP75', *(f'mAP_{area}' for area in areas[1:])), 0.0)
    scores = dict(mAP=precision[..., 0], AP50=precision[0, ..., 0], AP75=precision[5, ..., 0])
    scores.update({f'mAP_{area}': precision[..., place] for place, area in enumerate(areas) if place})
    return {name: _mean(value) for name, value in scores.items()}


def coco_precision(table: Detections, gt: GroundTruth, sizes: bool = False) -> tuple[ndarray | None, tuple[str, ...]]:
    """Precision of COCO's evaluation.

    Returns:
        Precision at 10 thresholds, 101 recalls, ``C`` classes and the areas; -1 where a class has no object. None if
        there is no detection. The names of the areas, the first is all.

    Raises:
        ValueError: If boxes are rotated.
    """
    if table.box.shape[1] != 4 or gt.box.shape[1] != 4:
        raise ValueError('COCO’s evaluation has no rotated boxes; `compare` gives AP of rotated detections')
    coco, evaluator = _package()
    areas = ('all', 's', 'm', 'l') if sizes else ('all',)
    if not len(table):
        return None, areas
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = coco()
        annotations.dataset = as_coco(gt)
        annotations.createIndex()
        xywh = np.concatenate([table.box[:, :2], table.box[:, 2:] - table.box[:, :2]], axis=1)
        # Numbers, not ids: an id may be a string.
        results = [
            dict(image_id=image + 1, category_id=category + 1, bbox=box, score=score)
            for image, category, box, score in zip(
                table.image.tolist(), table.category.tolist(), xywh.tolist(), table.score.tolist(), strict=True
            )
        ]
        run = evaluator(annotations, annotations.loadRes(results), 'bbox')
        run.params.areaRng, run.params.areaRngLbl = (
            run.params.areaRng[: len(areas)],
            run.params.areaRngLbl[: len(areas)],
        )
        run.evaluate()
        run.accumulate()
    # Axes of the package: thresholds, recalls, classes, areas, boxes of an image; the last is at most 100.
    return np.asarray(run.eval['precision'])[..., -1], areas


def _mean(precision: ndarray) -> float:
    """Mean over what is there, in percent; -1 if nothing is, as in COCO's summary."""
    there = precision[precision > -1]
    return 100 * float(there.mean()) if len(there) else -1.0


def _package() -> tuple[type, type]:
    """Classes of the faster package if it is there; both follow COCO's rules."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    except ImportError:
        pass
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError('evaluation needs `pip install faster-coco-eval` or `pip install pycocotools`') from error
    return COCO, COCOeval


def as_coco(gt: GroundTruth) -> dict:
    """Ground truth as COCO annotations, images and categories numbered from 1."""
    size = gt.box[:, 2:4] - gt.box[:, :2]
    area = size.prod(1) if gt.area is None else gt.area
    columns = (gt.image, gt.category, gt.box[:, :2], size, area, gt.ignore)
    annotations = [
        dict(
            id=number,
            image_id=image + 1,
            category_id=category + 1,
            bbox=[*corner, *wh],
            area=pixels,
            iscrowd=int(ignore),
        )
        for number, (image, category, corner, wh, pixels, ignore) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]
    return dict(
        images=[dict(id=number + 1) for number in range(len(gt.dataset))],
        categories=[dict(id=number + 1, name=name) for number, name in enumerate(gt.dataset.classes)],
        annotations=annotations,
    )
