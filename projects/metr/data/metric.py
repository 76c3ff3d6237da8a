"""COCO evaluation of one dataset for a model that predicts rows of the vocabulary of several."""

from __future__ import annotations

from collections import OrderedDict

import torch
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS

from .federated import excuses, is_federated, judged_categories
from .one_of_several import OneOfSeveral, select

ITEMS = {f'mAP{kind}' for kind in ('', '_50', '_75', '_s', '_m', '_l')}
ITEMS |= {f'AR@{kind}' for kind in ('100', '300', '1000')} | {f'AR_{kind}@1000' for kind in 'sml'}
"""What COCO's evaluation gives, as mmdet calls it."""


@METRICS.register_module()
class VocabCocoMetric(OneOfSeveral, CocoMetric):
    """COCO metric of one dataset of a vocabulary.

    See :class:`.one_of_several.OneOfSeveral` for what becomes of other datasets' samples and categories.

    A file that says for each image what was looked for (:mod:`mmplugins.metr.data.federated`) is evaluated as LVIS does
    (arXiv 1908.03195): detections of categories of which nothing is known in the image do not count, nor do detections
    without a box where boxes are not all there. lvis-api looks at the best 300 detections of an image, so let
    ``max_per_img`` be 300.

    With ``format_only`` all predictions of the dataset's categories are written, and the file needs no annotations.

    It can be one of the metrics of ``MultiDatasetsEvaluator`` over a ``MultiVocabConcatDataset``, or the only
    evaluator of one dataset.

    Args:
        ann_file: Annotation file of the dataset, in COCO format.
        dataset_name: Its name in the vocabulary.
        **kwargs: See :class:`mmdet.evaluation.CocoMetric`.

    Raises:
        FileNotFoundError: If there is no annotation file.
        ValueError: If it is broken, or the host could not give what is asked for at the end of an evaluation; or, when
            the evaluator sets ``dataset_meta``, if the file lacks a class of the dataset.
        KeyError: When the evaluator sets ``dataset_meta``: if that has no dataset of this name.
    """

    def __init__(self, ann_file: str, dataset_name: str, **kwargs) -> None:
        super().__init__(ann_file=None, **kwargs)  # opened here, because the host's index checks nothing
        self.open(ann_file, dataset_name, self.backend_args, need_annotations=not self.format_only)
        self._check_arguments()
        self._judged: dict | None = None  # of a federated file: image to the categories that can be judged in it
        # Results that are only written are judged elsewhere, by a file that knows more.
        if is_federated(self._coco_api.dataset['images']) and not self.format_only:
            self._judged = {
                key: judged_categories(image, self._coco_api.imgToAnns[key])
                for key, image in self._coco_api.imgs.items()
            }
            self._add_excuses()

    def to_local(self, sample: dict) -> dict:
        """Return a sample with this dataset's predictions; of a federated file, those that can be judged in it."""
        sample = super().to_local(sample)
        if self._judged is None:
            return sample
        judged = self._judged.get(sample['img_id'], ())
        labels = sample['pred_instances']['labels']
        keep = torch.tensor([category in judged for category in self.cat_ids], device=labels.device)
        return select(sample, keep[labels])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate what :meth:`process` stored.

        Raises:
            ValueError: If no sample is of this dataset, or an image is not in the annotation file.
        """
        own = self.own_results(results)
        strange = [result['img_id'] for _, result in own if result['img_id'] not in self._coco_api.imgs]
        if strange:
            raise ValueError(f'images that {self.ann_file} does not list: ids {strange[:10]}')
        found_nothing = not any(len(result['labels']) for _, result in own)
        if found_nothing and not self.format_only and set(self.metrics) <= {'bbox', 'segm'}:
            return self._zeros()
        return super().compute_metrics(own)

    def _check_arguments(self) -> None:
        """Refuse now what the host refuses after hours of evaluation."""
        unknown = sorted(set(self.metric_items or ()) - ITEMS)
        if unknown:
            raise ValueError(f'`metric_items` {unknown} are none of {sorted(ITEMS)}')
        if len(self.proposal_nums) != 3:
            raise ValueError(
                f"`proposal_nums` must be three numbers, COCO's evaluation needs all: {self.proposal_nums}"
            )
        without = [a['id'] for a in self._coco_api.dataset['annotations'] if not a.get('segmentation')]
        if 'segm' in self.metrics and without:
            raise ValueError(f"metric 'segm': {len(without)} annotations of {self.ann_file} have no segmentation")

    def _add_excuses(self) -> None:
        """Excuse what LVIS excuses."""
        data = self._coco_api.dataset
        data['annotations'] += [excuse for image in data['images'] for excuse in excuses(image)]
        for number, annotation in enumerate(data['annotations'], start=1):
            annotation['id'] = number
        self._coco_api.createIndex()

    def _zeros(self) -> dict[str, float]:
        """Return 0 for every number: with no prediction at all the host returns none, and ``save_best`` then fails."""
        items = self.metric_items or ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
        return OrderedDict((f'{metric}_{item}', 0.0) for metric in self.metrics for item in items)
