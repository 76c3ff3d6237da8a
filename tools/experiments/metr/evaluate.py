"""What is measured on the test images: AP50, wrong names, and which names the CEM finds."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CONFUSION_SCORE = 0.3  # detections below are not counted as errors


def test(runner: Runner, cfg: Config) -> dict:
    """Run the test loop; AP50 of each name, confusion, and how many present names the CEM finds."""
    cem, scores, kept = runner.model.cem, [], []
    retain = cem.retain

    def spy(logits: torch.Tensor, *args) -> tuple[torch.Tensor, torch.Tensor]:
        scores.append(logits.float())
        kept.append(retain(logits, *args))
        return kept[-1]

    cem.retain = spy
    runner.test()
    del cem.retain
    ann_file, names = cfg.test_evaluator.ann_file, runner.model.vocabulary.names
    coco, found = COCO(ann_file), json.loads(Path(f'{cfg.test_evaluator.outfile_prefix}.bbox.json').read_text())
    rows = {coco.getCatIds([name])[0]: row for row, name in enumerate(names)}
    present = torch.zeros(len(coco.imgs), len(names), dtype=torch.bool)
    for annotation in coco.dataset['annotations']:
        if annotation['category_id'] in rows:
            present[annotation['image_id'] - 1, rows[annotation['category_id']]] = True
    ranks = torch.cat(scores).argsort(1, descending=True).argsort(1)
    kept = torch.zeros_like(present).scatter(1, torch.cat([keep for keep, _ in kept]), True)
    return dict(
        ap50=ap50(coco, found, rows, names),
        **confusion(coco, found, rows),
        cem_recall=[float((present & (ranks < k)).sum() / present.sum()) for k in range(1, len(names) + 1)],
        kept_recall=float((present & kept).sum() / present.sum()),
    )


def ap50(coco: COCO, found: list[dict], rows: dict[int, int], names: Sequence[str]) -> dict[str, float]:
    """AP at IoU 0.5 of each name."""
    evaluation = COCOeval(coco, coco.loadRes(found) if found else COCO(), 'bbox')
    evaluation.params.catIds = list(rows)
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval['precision'][0, :, :, 0, -1]
    return {names[row]: float(max(column.mean(), 0)) for row, column in zip(rows.values(), precision.T, strict=True)}


def confusion(coco: COCO, found: list[dict], rows: dict[int, int]) -> dict[str, float | None]:
    """How often a box that is in the right place has the wrong name; None if there is no such box.

    Returns:
        ``confusion``: among detections with a score of at least 0.3 that cover a box (IoU ≥ 0.5), the share whose name
        is not that of the box they cover best. ``best_wrong``: among boxes that some detection covers, the share whose
        best-scored one has another name; this needs no threshold on the score.
    """
    wrong, best_wrong = [], []
    for image, truth in coco.imgToAnns.items():
        boxes = [detection for detection in found if detection['image_id'] == image]
        truth = [annotation for annotation in truth if annotation['category_id'] in rows]
        if not boxes or not truth:
            continue
        ious = box_iou(*(torch.tensor([item['bbox'] for item in items]) for items in (boxes, truth)))
        labels = torch.tensor([item['category_id'] for item in truth])
        guesses = torch.tensor([item['category_id'] for item in boxes])
        scores = torch.tensor([item['score'] for item in boxes])
        best, match = ious.max(1)
        counted = (best >= 0.5) & (scores >= CONFUSION_SCORE)
        wrong += (guesses != labels[match])[counted].tolist()
        covering = scores[:, None].where(ious >= 0.5, -1).max(0)
        best_wrong += (guesses[covering.indices] != labels)[covering.values >= 0].tolist()
    return dict(
        confusion=np.mean(wrong).item() if wrong else None,
        best_wrong=np.mean(best_wrong).item() if best_wrong else None,
    )


def box_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """IoU ``(n, m)`` of boxes ``[x, y, w, h]``."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum((first[:, :2] + first[:, 2:])[:, None], (second[:, :2] + second[:, 2:])[None])
    both = (high - low).clamp(min=0).prod(-1)
    return both / (first[:, 2:].prod(1)[:, None] + second[:, 2:].prod(1)[None] - both)
