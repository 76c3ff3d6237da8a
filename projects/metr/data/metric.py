"""COCO evaluation of one dataset for a model that predicts rows of the vocabulary of several.

Not in the paper: our decision, because users ask for per-dataset evaluation in one run. mmdet's
``MultiDatasetsEvaluator`` hands every sample to every metric and cuts out each dataset's samples at the end; what it
lacks is the way from the vocabulary back to the categories of an annotation file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.fileio import get_local_path
from torch import Tensor

from ..text.vocabulary import normalize_name
from .coco_json import CheckedCOCO, categories_of, is_box
from .federated import excuses, is_federated, judged_categories

ITEMS = {f'mAP{kind}' for kind in ('', '_50', '_75', '_s', '_m', '_l')}
ITEMS |= {f'AR@{kind}' for kind in ('100', '300', '1000')} | {f'AR_{kind}@1000' for kind in 'sml'}
"""What COCO's evaluation gives, as mmdet calls it."""


@METRICS.register_module()
class VocabCocoMetric(CocoMetric):
    """COCO metric of one dataset of a vocabulary.

    Predictions of categories that the dataset does not annotate are dropped: whether they are right cannot be known.
    Samples of other datasets are passed over, but keep their place in the results, which the evaluator cuts by
    position.

    A file that says for each image what was looked for (:mod:`mmplugins.metr.data.federated`) is evaluated as LVIS does
    (arXiv 1908.03195): detections of categories of which nothing is known in the image do not count, nor do detections
    without a box where boxes are not all there. lvis-api looks at the best 300 detections of an image, so let
    ``max_per_img`` be 300.

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
        self.ann_file = ann_file
        self.dataset_name = dataset_name
        with get_local_path(ann_file, backend_args=self.backend_args) as path:
            self._coco_api = CheckedCOCO(path)
        self._check_arguments()
        self._federated = is_federated(self._coco_api.dataset['images'])
        self._prepare_annotations()
        self._label_of: Tensor | None = None  # (V,), label in the file's order of each row; -1: not of this dataset

    @property
    def dataset_meta(self) -> dict | None:
        """Metainfo of the whole validation dataset. Setting it, at build time, checks the classes."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        rows, classes = self._rows_and_classes(meta)
        categories = categories_of(self._coco_api, classes, self.ann_file)
        label_of_name = {normalize_name(category['name']): label for label, category in enumerate(categories)}
        self._label_of = torch.full((len(meta['classes']),), -1)
        for row, name in zip(rows, classes, strict=True):
            self._label_of[row] = label_of_name[normalize_name(name)]
        self.cat_ids = [category['id'] for category in categories]
        self._dataset_meta = meta

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the predictions for this dataset's images, with labels of its file; for others a placeholder.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``img_id``, ``ori_shape``, ``dataset_name`` (may be absent if the validation
                dataset is one plain dataset) and ``pred_instances``: ``bboxes`` ``(Q, 4)`` xyxy, absolute pixels,
                ``scores`` ``(Q,)``, ``labels`` ``(Q,)``, rows of the vocabulary.
        """
        for sample in data_samples:
            name = self._name_of(sample)
            if name == self.dataset_name:
                local = {**sample, 'pred_instances': self._to_local(sample['pred_instances'], sample['img_id'])}
                super().process(data_batch, [local])
            else:
                self.results.append(name)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate what :meth:`process` stored.

        Raises:
            ValueError: If no sample is of this dataset, or an image is not in the annotation file.
        """
        own = [result for result in results if not isinstance(result, str)]
        if not own:
            raise ValueError(
                f'no sample of dataset {self.dataset_name!r} among {len(results)}, all of {sorted(set(results))}; '
                f'the metrics of MultiDatasetsEvaluator must be in the order of the datasets'
            )
        strange = [result['img_id'] for _, result in own if result['img_id'] not in self._coco_api.imgs]
        if strange:
            raise ValueError(f'images that {self.ann_file} does not list: ids {strange[:10]}')
        found_nothing = not any(len(result['labels']) for _, result in own)
        if found_nothing and not self.format_only and set(self.metrics) <= {'bbox', 'segm'}:
            return self._zeros()
        return super().compute_metrics(own)

    def _rows_and_classes(self, meta: dict) -> tuple[list[int], Sequence[str]]:
        """Return the rows of the dataset and, in the same order, its class names."""
        if 'datasets' not in meta:  # one plain dataset: its classes are the vocabulary
            return list(range(len(meta['classes']))), meta['classes']
        if self.dataset_name not in meta['datasets']:
            raise KeyError(f'unknown dataset {self.dataset_name!r}; the vocabulary has {list(meta["datasets"])}')
        return meta['datasets'][self.dataset_name], meta['dataset_classes'][self.dataset_name]

    def _name_of(self, sample: dict) -> str:
        """Return the dataset of a sample."""
        if 'dataset_name' in sample:
            return sample['dataset_name']
        if self.dataset_meta is not None and 'datasets' in self.dataset_meta:
            raise KeyError(f'image {sample.get("img_id")} has no `dataset_name`; use MultiVocabConcatDataset')
        return self.dataset_name

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

    def _prepare_annotations(self) -> None:
        """Drop what is no box, on which COCO's evaluation fails at its end, and excuse what LVIS excuses."""
        data = self._coco_api.dataset
        data['annotations'] = [annotation for annotation in data['annotations'] if is_box(annotation['bbox'])]
        self._coco_api.createIndex()
        if self._federated:
            self._judged = {
                key: judged_categories(image, self._coco_api.imgToAnns[key])
                for key, image in self._coco_api.imgs.items()
            }
            data['annotations'] += [excuse for image in data['images'] for excuse in excuses(image)]
            for number, annotation in enumerate(data['annotations'], start=1):
                annotation['id'] = number
            self._coco_api.createIndex()

    def _to_local(self, predictions: dict, img_id: int | str) -> dict:
        """Return the predictions that are of this dataset's categories, with labels in the file's order.

        Of a federated file: those that can be judged in the image.
        """
        labels = predictions['labels']
        if self._label_of is None:
            raise RuntimeError('`dataset_meta` is not set; the evaluator sets it')
        if len(labels) and int(labels.max()) >= len(self._label_of):
            raise ValueError(f'label {int(labels.max())} is predicted, the dataset has {len(self._label_of)} names')
        local = self._label_of.to(labels.device)[labels]
        keep = local >= 0
        if self._federated:
            judged = self._judged.get(img_id, ())
            keep &= torch.tensor([category in judged for category in self.cat_ids]).to(labels.device)[local]
        kept = {key: _select(value, keep) for key, value in predictions.items()}
        return {**kept, 'labels': local[keep]}

    def _zeros(self) -> dict[str, float]:
        """Return 0 for every number: with no prediction at all the host returns none, and ``save_best`` then fails."""
        items = self.metric_items or ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
        return OrderedDict((f'{metric}_{item}', 0.0) for metric in self.metrics for item in items)


def _select(values: Tensor | Sequence, keep: Tensor) -> Tensor | list:
    """Return the values where ``keep`` ``(Q,)`` is True; masks may come as a list."""
    if isinstance(values, Tensor):
        return values[keep]
    return [value for value, is_kept in zip(values, keep.tolist(), strict=True) if is_kept]
