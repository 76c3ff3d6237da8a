"""Fusion of mmdet's predictions: between ``InstanceData`` and the flat tables.

Letters: ``M`` boxes of a detector in an image. The fusion itself runs on the CPU in float64: a few hundred boxes take
longer to launch on a GPU than to fuse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData

from .boxes.tables import Detections, clean
from .calibration.detectors import Calibration
from .fusion.fuse import fuse
from .fusion.options import KEEPING, fuse_config


@TASK_UTILS.register_module()
class PRAEFusion:
    """Refine the boxes of several detectors and fuse them.

    Args:
        preset: ``robust`` or ``official``; what is not given below is the preset's.
        with_masks: Carry instance masks along; only the heads ``nms`` and ``soft_nms`` can, and all detectors must have
            them. False: masks are dropped, so a mask detector can be an ensemble's member for its boxes.
        **options: See :class:`mmplugins.prae.FuseConfig`: ``head``, ``iou_thr``, ``weights``, ``max_per_img``, …

    Raises:
        ValueError: For an option that is not allowed, or masks with a head that merges.
    """

    def __init__(self, preset: str = 'robust', with_masks: bool = False, **options) -> None:
        self.cfg = fuse_config(preset, **options)
        self.with_masks = with_masks
        if with_masks and self.cfg.head not in KEEPING:
            raise ValueError(f'masks cannot be merged; use one of the heads {KEEPING}, not {self.cfg.head!r}')

    def __call__(
        self, views: Sequence[Sequence[InstanceData]], calib: Calibration, sizes: Sequence[tuple[int, int]]
    ) -> list[InstanceData]:
        """Fuse a batch.

        Args:
            views: For each detector its predictions on each image: ``bboxes (M, 4)`` xyxy or ``(M, 5)``, pixels of the
                original image, ``scores (M,)``, ``labels (M,)``, index of ``calib.classes``.
            calib: Curves of the detectors, in the same order.
            sizes: Height and width of each image.

        Returns:
            For each image ``bboxes``, ``scores``, ``labels`` by falling score, on the device and in the type of the
            first detector's boxes; with masks also ``masks``.
        """
        tables = [clean(to_table(view))[0] for view in views]
        width_height = np.array([(width, height) for height, width in sizes], dtype=np.float64).reshape(-1, 2)
        out = fuse(tables, calib, self.cfg, width_height)
        like = views[0][0].bboxes
        bounds = np.searchsorted(out.image, np.arange(len(sizes) + 1))
        results = []
        for image, (start, stop) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            rows = slice(start, stop)
            result = InstanceData(
                bboxes=like.new_tensor(out.box[rows]).reshape(-1, like.size(-1)),
                scores=like.new_tensor(out.score[rows]),
                labels=torch.from_numpy(out.category[rows]).to(like.device),
            )
            if self.with_masks:
                result.masks = _masks(views, tables, out.source[rows], image)
            results.append(result)
        return results


def to_table(view: Sequence[InstanceData]) -> Detections:
    """One table of the predictions of a detector on a batch; images are numbered by their place."""
    image = np.repeat(np.arange(len(view)), [len(instances) for instances in view])
    columns = [
        torch.cat([getattr(instances, name) for instances in view]).detach().cpu().numpy()
        for name in ('labels', 'scores', 'bboxes')
    ]
    label, score, box = columns
    return Detections(image, label.astype(np.int64), score.astype(np.float64), box.astype(np.float64))


def joined(views: Sequence[InstanceData]) -> InstanceData:
    """Boxes of all detectors in one image, unfused, with the field ``detector`` that says whose each is."""
    parts = []
    for number, view in enumerate(views):
        labels = view.labels
        parts.append(
            InstanceData(
                bboxes=view.bboxes, scores=view.scores, labels=labels, detector=torch.full_like(labels, number)
            )
        )
    return InstanceData.cat(parts)


def _masks(
    views: Sequence[Sequence[InstanceData]], tables: Sequence[Detections], source: np.ndarray, image: int
) -> torch.Tensor:
    """Masks of kept boxes ``(M, H, W)``.

    Raises:
        ValueError: If a detector has none.
    """
    missing = [number for number, view in enumerate(views) if 'masks' not in view[image]]
    if missing:
        raise ValueError(f'with_masks is True, but detectors {missing} give no masks')
    found = []
    for detector, row in source:
        # Rows count the boxes of the whole batch; masks are those of an image.
        first = int(np.searchsorted(tables[detector].image, image))
        found.append(views[detector][image].masks[row - first])
    return torch.stack(found) if found else views[0][image].masks[:0]
