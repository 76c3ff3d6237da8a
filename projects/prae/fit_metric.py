"""A metric that fits curves: ``tools/test.py`` on the fit images writes the calibration file."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from mmdet.registry import METRICS
from mmdet.structures.bbox import get_box_tensor
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger

from .boxes.average_precision import coco_scores
from .boxes.tables import Detections, GroundTruth, lookup, subset, subset_detections
from .calibration.file import save
from .calibration.fit import fit
from .calibration.options import fit_config
from .files.inputs import read_annotations
from .tuning.held_out import calibrate_fused, hold_out


@METRICS.register_module()
class PRAEFitMetric(BaseMetric):
    """Collect predictions on annotated images and fit a curve for each detector.

    With :class:`EnsembleDetector` or :class:`PRAETTAModel` without fusion, all members are fitted in one run; with any
    other detector, that one.

    Args:
        ann_file: COCO annotation file of the images, or folder of VOC XML.
        out_file: Calibration file to write.
        names: Of the detectors, in the order of the field ``detector``.
        preset: ``robust`` or ``official``.
        options: See :class:`mmplugins.prae.FitConfig`; what differs from the preset.
        **kwargs: See :class:`mmengine.evaluator.BaseMetric`.
    """

    default_prefix = 'prae'

    def __init__(
        self,
        ann_file: str,
        out_file: str,
        names: Sequence[str] = ('detector',),
        preset: str = 'robust',
        options: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.gt = read_annotations(ann_file)
        self.gt_is_coco = not os.path.isdir(ann_file)
        self.out_file, self.names = out_file, tuple(names)
        self.cfg = fit_config(preset, **(options or {}))
        self.known: Sequence[Sequence[str]] = ()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store predictions.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``img_id`` and ``pred_instances``: ``bboxes (M, 4)`` or ``(M, 5)`` in pixels of the
                original image, ``scores (M,)``, ``labels (M,)`` and, if there are several detectors, ``detector (M,)``.
                They may say which classes each detector knows, ``known``, names; where not, all of the data set.

        Raises:
            ValueError: If a class is not in the annotation file, the classes of the data set are in another order, or
                there are several names and boxes do not say whose they are.
        """
        if not self.results:
            self._check_classes()
        for sample in data_samples:
            self.known = sample.get('known', ())
            pred = sample['pred_instances']
            if len(self.names) > 1 and 'detector' not in pred:
                raise ValueError(
                    f'boxes do not say which of the detectors {list(self.names)} they are of: an ensemble that is '
                    'to be fitted must not fuse them, set model.fusion=None'
                )
            columns = {name: get_box_tensor(pred[name]).float().cpu().numpy() for name in ('bboxes', 'scores')}
            labels = columns['labels'] = pred['labels'].cpu().numpy()
            columns['detector'] = pred['detector'].cpu().numpy() if 'detector' in pred else np.zeros_like(labels)
            self.results.append((sample['img_id'], columns))

    def _check_classes(self) -> None:
        """Check that labels count the classes in the order in which ``dataset_meta`` has them."""
        classes, listed = self.dataset_meta['classes'], self.gt.dataset.classes
        place = lookup(list(classes), listed, 'class')
        if self.gt_is_coco and (np.diff(place) < 0).any():
            raise ValueError(
                f'metainfo.classes of the data set are {list(classes)[:5]}, the categories of the annotation file '
                f'{list(listed)[:5]}: mmdet numbers labels in the order of the file, so give the classes in that order'
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Fit, write the file, and return for each detector AP, and ECE before and after by curves of other images.

        There is no ECE before where scores are not in [0, 1].

        Raises:
            ValueError: If an image is not in the annotation file, or there are more detectors than names.
        """
        gt, tables = self._tables(results)
        known = dict.fromkeys(self.names, self.dataset_meta['classes'])
        known.update(zip(self.names, self.known, strict=False))
        held = hold_out(tables, gt, self.cfg)
        calib, _ = calibrate_fused(fit(tables, gt, self.cfg, known=known), held, gt)
        save(calib, self.out_file)
        MMLogger.get_current_instance().info(f'calibration written to {self.out_file}')
        found = {}
        for name, one in held.items():
            if gt.box.shape[1] == 4:
                found[f'{name}_mAP'] = round(coco_scores(one.table, gt)['mAP'] / 100, 3)
            raw, refined = one.errors(gt)['ECE']
            if raw is not None:
                found[f'{name}_ece'] = round(raw, 3)
            found[f'{name}_ece_refined'] = round(refined, 3)
        return found

    def _tables(self, results: list) -> tuple[GroundTruth, dict[str, Detections]]:
        """Ground truth of the images that were seen, and the boxes of each detector on them."""
        data = self.gt.dataset
        images = lookup([image_id for image_id, _ in results], data.image_ids, 'image id')
        classes = lookup(list(self.dataset_meta['classes']), data.classes, 'class')
        names = ('bboxes', 'scores', 'labels', 'detector')
        columns = {name: np.concatenate([part[name] for _, part in results]) for name in names}
        image = np.repeat(images, [len(part['scores']) for _, part in results])
        detector = columns['detector']
        if len(detector) and detector.max() >= len(self.names):
            raise ValueError(f'{detector.max() + 1} detectors, but the names are {list(self.names)}')
        score, box = (columns[name].astype(np.float64) for name in ('scores', 'bboxes'))
        whole = Detections(image, classes[columns['labels']], score, box)
        order = np.argsort(image, kind='stable')
        seen = np.unique(images)
        tables = {}
        for number, name in enumerate(self.names):
            rows = order[detector[order] == number]
            tables[name] = subset_detections(whole.select(rows), seen, len(data))
        return subset(self.gt, seen), tables
