"""What metrics of one dataset share when a model predicts rows of the vocabulary of several.

Not in the paper: our decision, because users ask for per-dataset evaluation in one run. mmdet's
``MultiDatasetsEvaluator`` hands every sample to every metric and cuts out each dataset's samples at the end; what it
lacks is the way from the vocabulary back to the categories of an annotation file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.fileio import get_local_path
from torch import Tensor

from ..text.vocabulary import normalize_name
from .coco_json import CheckedCOCO, categories_of, is_box


class OneOfSeveral:
    """The half of a metric that finds its dataset's samples and categories; a metric of mmdet is the other half.

    Predictions of categories that the dataset does not annotate are dropped: whether they are right cannot be known.
    Samples of other datasets are passed over, but keep their place in the results, which the evaluator cuts by
    position.
    """

    def open(
        self, ann_file: str, dataset_name: str, backend_args: dict | None = None, need_annotations: bool = True
    ) -> None:
        """Read and check the annotation file, and drop what is no box, on which evaluations fail at their end.

        Args:
            ann_file: See the metric.
            dataset_name: See the metric.
            backend_args: Of mmengine's file backends. None.
            need_annotations: Whether a file without the key ``annotations``, as of a test set, is an error. True.

        Raises:
            FileNotFoundError: If there is no annotation file.
            ValueError: If it is broken.
        """
        self.ann_file = ann_file
        self.dataset_name = dataset_name
        with get_local_path(ann_file, backend_args=backend_args) as path:
            self._coco_api = CheckedCOCO(path, need_annotations)
        data = self._coco_api.dataset
        data['annotations'] = [annotation for annotation in data.get('annotations', ()) if is_box(annotation['bbox'])]
        self._coco_api.createIndex()
        self._has_others = False
        self._label_of: Tensor | None = None  # (V,), label in the file's order of each row; -1: not of this dataset

    @property
    def dataset_meta(self) -> dict | None:
        """Metainfo of the whole validation dataset. Setting it, at build time, checks the classes."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        rows, classes = self._rows_and_classes(meta)
        self.categories = categories_of(self._coco_api, classes, self.ann_file)
        label_of_name = {normalize_name(category['name']): label for label, category in enumerate(self.categories)}
        self._label_of = torch.full((len(meta['classes']),), -1)
        for row, name in zip(rows, classes, strict=True):
            self._label_of[row] = label_of_name[normalize_name(name)]
        self.cat_ids = [category['id'] for category in self.categories]
        self._has_others = 'datasets' in meta
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
                super().process(data_batch, [self.to_local(sample)])
            else:
                self.results.append(name)

    def own_results(self, results: list) -> list:
        """Return the results without the placeholders.

        Raises:
            ValueError: If there are no others.
        """
        own = [result for result in results if not isinstance(result, str)]
        if not own:
            raise ValueError(
                f'no sample of dataset {self.dataset_name!r} among {len(results)}, all of {sorted(set(results))}; '
                f'the metrics of MultiDatasetsEvaluator must be in the order of the datasets'
            )
        return own

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
        if self._has_others:
            raise KeyError(f'image {sample.get("img_id")} has no `dataset_name`; use MultiVocabConcatDataset')
        return self.dataset_name

    def to_local(self, sample: dict) -> dict:
        """Return a sample whose predictions are of this dataset's categories, with labels in the file's order.

        Raises:
            RuntimeError: If ``dataset_meta`` is not set.
            ValueError: If a label is none of the vocabulary's.
        """
        labels = sample['pred_instances']['labels']
        if self._label_of is None:
            raise RuntimeError('`dataset_meta` is not set; the evaluator sets it')
        if len(labels) and int(labels.max()) >= len(self._label_of):
            raise ValueError(f'label {int(labels.max())} is predicted, the dataset has {len(self._label_of)} names')
        local = self._label_of.to(labels.device)[labels]
        return select({**sample, 'pred_instances': {**sample['pred_instances'], 'labels': local}}, local >= 0)


def select(sample: dict, keep: Tensor) -> dict:
    """Return a sample with those of its predictions for which ``keep`` ``(Q,)`` is True; masks may come as a list."""
    predictions = {
        key: value[keep]
        if isinstance(value, Tensor)
        else [one for one, is_kept in zip(value, keep.tolist(), strict=True) if is_kept]
        for key, value in sample['pred_instances'].items()
    }
    return {**sample, 'pred_instances': predictions}
