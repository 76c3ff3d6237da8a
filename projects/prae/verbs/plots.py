"""Reliability of each detector before and after refinement; precision and recall of members and ensemble."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ...utils.atomic import replacing
from ..boxes.average_precision import RECALLS, coco_precision
from ..boxes.tables import Detections, GroundTruth
from ..calibration.reliability import ece, reliability
from ..tuning.held_out import Held


def plot_reliability(held: Mapping[str, Held], path: str | os.PathLike) -> None:
    """One panel for each detector: share of right boxes against score, raw and refined by curves of other images.

    What is right is the target that the curves were fitted to.
    """
    columns = min(3, len(held))
    rows = -(-len(held) // columns)
    figure, axes = _figure(rows, columns)
    for axis, (name, one) in zip(axes.flat, held.items(), strict=False):
        axis.plot([0, 1], [0, 1], color='0.7', linewidth=1)
        for label, score in (('raw', one.table.score), ('refined', one.score)):
            use = one.counts & np.isfinite(score)
            x, y, _ = reliability(score[use], one.value[use])
            axis.plot(x, y, marker='.', label=f'{label}, ECE {ece(score[use], one.value[use]):.3f}')
        axis.set(title=name, xlabel='score', ylabel='share of right boxes', ylim=(0, 1.02))
        axis.legend(fontsize=8)
    for axis in axes.flat[len(held) :]:
        axis.axis('off')
    _save(figure, path)


def plot_precision_recall(tables: Mapping[str, Detections], gt: GroundTruth, path: str | os.PathLike) -> None:
    """Precision at IoU 0.5 against recall, mean of classes, for each table."""
    figure, axes = _figure(1, 1, size=5)
    for name, table in tables.items():
        precision, _ = coco_precision(table, gt)
        if precision is None:
            continue
        curve = precision[0, :, :, 0]
        axes[0, 0].plot(RECALLS, curve[:, (curve > -1).all(0)].mean(1), label=name)
    axes[0, 0].set(xlabel='recall', ylabel='precision at IoU 0.5', xlim=(0, 1), ylim=(0, 1.02))
    axes[0, 0].legend(fontsize=8)
    _save(figure, path)


def _figure(rows: int, columns: int, size: float = 3.2):
    """A figure without a window, whatever backend is set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size * columns, size * rows), layout='constrained')
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure, path: str | os.PathLike) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
