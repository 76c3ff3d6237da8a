"""What is measured: AP by the rules of mmrotate's metric, the table of what holds it back, and errors of angles."""

import numpy as np
import torch
from mmengine.runner import Runner
from torch import Tensor

from mmplugins.o2detr.angles import angle_distance, regularize
from mmplugins.o2detr.verbs.diagnose import ROWS, diagnose, predict

BORDER = np.deg2rad(10)


def test(runner: Runner) -> dict:
    """Predict the test images; AP50 and AP75 of each row of ``diagnose``, and the errors of angles."""
    model = runner.model.eval()
    classes = runner.cfg.test_dataloader.dataset.metainfo.classes
    images = predict(model, runner.cfg)
    errors, border = [], []
    for image in images:
        truth = image.truth.bboxes
        errors += angle_errors(image.found.bboxes, image.found.scores, truth).tolist()
        border += (angle_distance(truth[:, 4], torch.zeros(())) < BORDER).tolist()
    errors, border = np.rad2deg(errors), np.array(border, dtype=bool)
    found = ~np.isnan(errors)

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if len(values) else None

    table = diagnose(images, len(classes))
    return dict(
        **table[ROWS[0]],
        rows=table,
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
