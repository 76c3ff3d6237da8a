"""Average precision by faster-coco-eval or pycocotools, and paired bootstrap intervals over images.

The numbers are those packages'. What is ours is the resampling: pycocotools cannot weight images, so the matches of
:func:`matching.match_greedy`, which are COCO's, are summed up again for each resample. A test compares the unweighted
sum with the package.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy import ndarray

from ..calibration.matching import COCO_THRESHOLDS, match_greedy
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
    """
    coco, evaluator = _package()
    areas = ('all', 's', 'm', 'l') if sizes else ('all',)
    if not len(table):
        return None, areas
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = coco()
        annotations.dataset = _as_coco(gt)
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


def _as_coco(gt: GroundTruth) -> dict:
    size = gt.box[:, 2:4] - gt.box[:, :2]
    columns = (gt.image.tolist(), gt.category.tolist(), gt.box[:, :2].tolist(), size.tolist(), gt.ignore.tolist())
    annotations = [
        dict(
            id=number,
            image_id=image + 1,
            category_id=category + 1,
            bbox=[*corner, *wh],
            area=wh[0] * wh[1],
            iscrowd=int(ignore),
        )
        for number, (image, category, corner, wh, ignore) in enumerate(zip(*columns, strict=True), start=1)
    ]
    return dict(
        images=[dict(id=number + 1) for number in range(len(gt.dataset))],
        categories=[dict(id=number + 1, name=name) for number, name in enumerate(gt.dataset.classes)],
        annotations=annotations,
    )


class ResampledAP:
    """AP of one table of detections, for any weights of the images.

    Args:
        table: At most 100 boxes of an image and category count, as in COCO's evaluation.
        gt: Ground truth.
    """

    def __init__(self, table: Detections, gt: GroundTruth) -> None:
        hit, ignored = match_greedy(table, gt.ignored_as_crowd(), COCO_THRESHOLDS)
        order = np.argsort(-table.score, kind='stable')
        self._per_category = []
        for category in range(len(gt.dataset.classes)):
            rows = order[table.category[order] == category]
            positives = gt.image[(gt.category == category) & ~gt.ignore]
            if len(positives):
                levels = [(np.flatnonzero(hit[t, rows]), np.flatnonzero(ignored[t, rows])) for t in range(len(hit))]
                # Boxes that are ignored and come before each hit.
                levels = [(at, skip, np.searchsorted(skip, at)) for at, skip in levels]
                self._per_category.append((table.image[rows], positives, levels))

    def __call__(self, weights: ndarray) -> ndarray:
        """Return AP in percent at each of COCO's ten thresholds, ``(10,)``, mean of categories.

        Args:
            weights: ``(I,)``, how often each image counts.
        """
        values = []
        for image, positives, levels in self._per_category:
            total = weights[positives].sum()
            if total > 0:
                weight = weights[image]
                running = np.cumsum(weight)
                values.append([self._level(weight, running, total, *level) for level in levels])
        return 100 * np.mean(values, axis=0) if values else np.zeros(len(COCO_THRESHOLDS))

    @staticmethod
    def _level(weight: ndarray, running: ndarray, total: float, at: ndarray, skip: ndarray, before: ndarray) -> float:
        """Interpolated AP. Recall changes at hits only, and precision is highest there, so only hits are looked at."""
        true = np.cumsum(weight[at])
        ignored = np.concatenate([[0.0], np.cumsum(weight[skip])])[before]
        counts = weight[at] > 0
        true, found = true[counts], (running[at] - ignored)[counts]
        if not len(true):
            return 0.0
        envelope = np.maximum.accumulate((true / found)[::-1])[::-1]
        place = np.searchsorted(true / total, RECALLS, side='left')
        return float(envelope[place[place < len(true)]].sum() / len(RECALLS))


def bootstrap(
    arms: dict[str, list[ResampledAP]], num_images: list[int], resamples: int, seed: int
) -> dict[str, ndarray]:
    """Return mAP and AP50 of each arm on the same resampled images, mean over folds.

    Args:
        arms: Name to one evaluator for each fold.
        num_images: Of each fold.
        resamples: How many.
        seed: Of numpy's generator.

    Returns:
        Name to ``(resamples, 2)``.
    """
    generator = np.random.default_rng(seed)
    out = {name: np.zeros((resamples, 2)) for name in arms}
    for row in range(resamples):
        weights = [np.bincount(generator.integers(0, n, n), minlength=n).astype(np.float64) for n in num_images]
        for name, folds in arms.items():
            ap = np.mean([fold(weight) for fold, weight in zip(folds, weights, strict=True)], axis=0)
            out[name][row] = ap.mean(), ap[0]
    return out
