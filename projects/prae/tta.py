"""Test-time augmentation with a curve for each view: mirrored or rescaled images are scored on other scales, too.

Not in the paper: our decision, because views of one detector are fused like detectors.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from .calibration.detectors import Calibration
from .calibration.file import load
from .instances import joined


@MODELS.register_module()
class PRAETTAModel(DetTTAModel):
    """A drop-in for ``DetTTAModel`` that refines the scores of each view before it merges.

    Boxes of each view are ``(M, 4)`` xyxy, and mirrored back by the host. The number of views must be that of the
    calibration's detectors; their order is that of the test-time pipeline.

    Args:
        calibration: File with one "detector" for each view. None: raw scores.
        fusion: Of :class:`PRAEFusion`. None: boxes are not merged but given with the field ``detector``, as
            :class:`PRAEFitMetric` needs them to fit a curve for each view.
        classes: Names of the labels, in order. None: those of the calibration.
        **kwargs: See ``DetTTAModel``; ``tta_cfg`` is not used.
    """

    def __init__(
        self,
        calibration: str | None = None,
        fusion: dict | None = None,
        classes: Sequence[str] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.fusion = None if fusion is None else TASK_UTILS.build({'type': 'PRAEFusion', **fusion})
        self.curves = None if calibration is None else load(calibration)
        if self.curves is not None and classes is not None:
            self.curves = self.curves.for_classes(classes)

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        """Merge the views of one image.

        Args:
            data_samples: One for each view, ``pred_instances`` with ``bboxes (M, 4)`` xyxy in pixels of the original
                image.

        Returns:
            The first sample, with the merged boxes.

        Raises:
            ValueError: If the calibration is for another number of views.
        """
        views = []
        for sample in data_samples:
            pred = sample.pred_instances
            box, score = self.merge_aug_bboxes([pred.bboxes], [pred.scores], [sample.metainfo])  # mirrors back
            views.append(InstanceData(bboxes=box, scores=score, labels=pred.labels))
        merged = data_samples[0]
        if self.fusion is None:
            merged.pred_instances = joined(views)
            return merged
        curves = self._curves_for(views)
        merged.pred_instances = self.fusion([[view] for view in views], curves, [merged.ori_shape[:2]])[0]
        return merged

    def _curves_for(self, views: Sequence[InstanceData]) -> Calibration:
        if self.curves is None:
            num = max((int(view.labels.max()) + 1 for view in views if len(view)), default=1)
            return Calibration.identity([f'view {n}' for n in range(len(views))], [str(n) for n in range(num)])
        if len(self.curves.detectors) != len(views):
            raise ValueError(f'{len(views)} views, but the calibration has curves for {list(self.curves.names)}')
        return self.curves
