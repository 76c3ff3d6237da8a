"""Fusion of mmdet's predictions: between ``InstanceData`` and the flat tables.

Letters: ``M`` boxes of a detector in an image. The fusion itself runs on the CPU in float64: a few hundred boxes take
longer to launch on a GPU than to fuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import BaseBoxes, get_box_tensor
from mmengine.structures import InstanceData

from .boxes.tables import Detections, clean
from .calibration.detectors import Calibration
from .fusion.fuse import fuse
from .fusion.options import FuseConfig, fuse_config

FIELDS = ('labels', 'scores', 'bboxes')


@TASK_UTILS.register_module()
class PRAEFusion:
    """Refine the boxes of several detectors and fuse them.

    Args:
        preset: ``robust`` or ``official``; what is not given below is the preset's. None: what the calibration says, as
            `fit` and `tune` wrote it.
        with_masks: Carry instance masks along, or let those of merged boxes vote; a box of detectors without masks gets
            an empty one. False: masks are dropped, so a mask detector can be an ensemble's member for its boxes.
        **options: See :class:`mmplugins.prae.FuseConfig`: ``head``, ``iou_thr``, ``weights``, ``max_per_img``, …

    Raises:
        ValueError: For an option that is not allowed.
    """

    def __init__(self, preset: str | None = None, with_masks: bool = False, **options) -> None:
        self.preset, self.options = preset, options
        fuse_config(preset or 'robust', **options)  # refuses what is wrong before a detector has run
        self.with_masks = with_masks

    def config(self, calib: Calibration) -> FuseConfig:
        """Options of the fusion for a calibration."""
        if self.preset is not None:
            return fuse_config(self.preset, **self.options)
        return replace(calib.fusion, **self.options)

    def __call__(
        self, views: Sequence[Sequence[InstanceData]], calib: Calibration, sizes: Sequence[tuple[int, int]]
    ) -> list[InstanceData]:
        """Fuse a batch.

        Args:
            views: For each detector its predictions on each image: ``bboxes (M, 4)`` xyxy or ``(M, 5)``, tensor or
                boxes of mmdet or mmrotate, pixels of the original image, ``scores (M,)``, ``labels (M,)``, index of
                ``calib.classes``.
            calib: Curves of the detectors, in the same order.
            sizes: Height and width of each image.

        Returns:
            For each image ``bboxes``, of the class of the first detector's, ``scores``, ``labels`` by falling score, on
            its device, in float32 or what is more exact; with masks also ``masks (M, H, W)``.
        """
        tables = [clean(to_table(view, self.with_masks))[0] for view in views]
        width_height = np.array([(width, height) for height, width in sizes], dtype=np.float64).reshape(-1, 2)
        out = fuse(tables, calib, self.config(calib), width_height)
        boxes = views[0][0].bboxes
        like = get_box_tensor(boxes)
        # Under autocast detectors speak half precision, whose steps are pixels wide.
        dtype = torch.promote_types(like.dtype, torch.float32)
        bounds = np.searchsorted(out.image, np.arange(len(sizes) + 1))
        results = []
        for start, stop, size in zip(bounds[:-1], bounds[1:], sizes, strict=True):
            part = out.select(slice(start, stop))
            box = torch.from_numpy(part.box).to(like.device, dtype).reshape(-1, like.size(-1))
            result = InstanceData(
                bboxes=type(boxes)(box) if isinstance(boxes, BaseBoxes) else box,
                scores=torch.from_numpy(part.score).to(like.device, dtype),
                labels=torch.from_numpy(part.category).to(like.device),
            )
            if self.with_masks:
                empty = np.zeros(size, dtype=bool)
                masks = [empty if mask is None else mask for mask in (part.mask if part.mask is not None else ())]
                result.masks = torch.from_numpy(np.stack(masks or [empty])[: len(part)]).to(like.device)
            results.append(result)
        return results


def to_table(view: Sequence[InstanceData], with_masks: bool = False) -> Detections:
    """One table of the predictions of a detector on a batch; images are numbered by their place.

    Args:
        view: See :class:`PRAEFusion`.
        with_masks: Keep masks, as ``(H, W)`` bool each, where there are any.
    """
    image = np.repeat(np.arange(len(view)), [len(instances) for instances in view])
    columns = (torch.cat([get_box_tensor(getattr(instances, name)) for instances in view]) for name in FIELDS)
    label, score, box = (column.detach().double().cpu().numpy() for column in columns)
    table = Detections(image, label.astype(np.int64), score, box)
    if not with_masks or not all('masks' in instances for instances in view):
        return table
    mask = np.empty(len(table), dtype=object)
    mask[:] = [one.cpu().numpy() > 0 for instances in view for one in torch.as_tensor(instances.masks)]
    return replace(table, mask=mask)


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
