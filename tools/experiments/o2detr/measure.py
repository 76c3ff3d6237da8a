"""What is measured: AP of mmrotate's metric, and errors of angles."""

import contextlib
import multiprocessing.pool
import types
from collections.abc import Iterator

import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.runner import Runner
from mmrotate.evaluation.functional import mean_ap
from torch import Tensor

from mmplugins.o2detr.angles import angle_distance, regularize

BORDER = np.deg2rad(10)


@contextlib.contextmanager
def threads_for_metric() -> Iterator[None]:
    """Let mmrotate's AP use threads: it starts four processes for each class, which takes longer than the work."""
    before = mean_ap.get_context
    mean_ap.get_context = lambda _: types.SimpleNamespace(Pool=lambda _: multiprocessing.pool.ThreadPool(1))
    try:
        yield
    finally:
        mean_ap.get_context = before


def test(runner: Runner) -> dict[str, float]:
    """Predict the test images; AP50 and AP75 of ``DOTAMetric``, and the errors of angles."""
    model = runner.model.eval()
    evaluator = runner.build_evaluator(runner.cfg.test_evaluator)
    loader = runner.build_dataloader(runner.cfg.test_dataloader)
    evaluator.dataset_meta = loader.dataset.metainfo
    errors, border = [], []
    for batch in loader:
        with torch.no_grad():
            samples = model.test_step(batch)
        evaluator.process(samples, batch)
        for sample in samples:
            truth = regularize(get_box_tensor(sample.gt_instances.bboxes).float())
            errors += angle_errors(sample.pred_instances.bboxes, sample.pred_instances.scores, truth).tolist()
            border += (angle_distance(truth[:, 4], torch.zeros(())) < BORDER).tolist()
    with threads_for_metric():
        result = evaluator.evaluate(len(loader.dataset))
    errors, border = np.rad2deg(errors), np.array(border, dtype=bool)
    found = ~np.isnan(errors)

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if len(values) else None

    return dict(
        ap50=float(result['dota/AP50']),
        ap75=float(result['dota/AP75']),
        angle=mean(errors[found]),
        angle_border=mean(errors[found & border]),
        found=float(found.mean()),
        border_boxes=int(border.sum()),
    )


def angle_errors(boxes: Tensor, scores: Tensor, truth: Tensor) -> Tensor:
    """Error of the best-scored detection at each true box.

    A detection is at a box if its center is not farther from the box's than half the short side: a rule that does not
    look at the angle, other than one on IoU.

    Args:
        boxes: ``(n, 5)``, radians.
        scores: ``(n,)``.
        truth: ``(G, 5)``.

    Returns:
        ``(G,)`` radians in [0, π/2]; not a number where no detection is.
    """
    if not len(boxes):
        return torch.full((len(truth),), torch.nan)
    at = torch.cdist(truth[:, :2], boxes[:, :2]) <= truth[:, 3:4] / 2
    best = scores.where(at, -1.0).max(1)
    error = angle_distance(regularize(boxes)[best.indices, 4], truth[:, 4])
    return error.where(best.values >= 0, torch.nan)
