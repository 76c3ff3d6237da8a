"""OpenImages' own evaluation of one dataset for a model that predicts rows of the vocabulary of several."""

from __future__ import annotations

import numpy as np
from mmdet.evaluation import OpenImagesMetric
from mmdet.registry import METRICS

from .federated import NEGATIVE, PARTLY_BOXED
from .one_of_several import OneOfSeveral

KINDS = {500: 'oid_challenge', 601: 'oid_v6'}
"""Number of names to what mmdet calls the release."""


@METRICS.register_module()
class VocabOpenImagesMetric(OneOfSeveral, OpenImagesMetric):
    """mmdet's OpenImages metric of one dataset of a vocabulary, on what ``prepare openimages`` wrote.

    A box of "Man" is one of "Person" too, in truth and in predictions; a group counts once, whatever is found inside;
    names that nobody looked for in an image do not count there. As in the challenge's own protocol a name that was
    verified as absent takes all below it along; mmdet's data set takes the name alone.

    See :class:`.one_of_several.OneOfSeveral` for what becomes of other datasets' samples and categories.

    Args:
        ann_file: A file of ``prepare openimages``.
        dataset_name: Its name in the vocabulary.
        backend_args: Of mmengine's file backends. None.
        **kwargs: See :class:`mmdet.evaluation.OpenImagesMetric`.

    Raises:
        FileNotFoundError: If there is no annotation file.
        ValueError: If it is broken or its categories lack ``parents``; or, when the evaluator sets ``dataset_meta``, if
            the dataset has neither 500 nor 601 names, or other than the file.
        KeyError: When the evaluator sets ``dataset_meta``: if that has no dataset of this name.
    """

    def __init__(self, ann_file: str, dataset_name: str, backend_args: dict | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.open(ann_file, dataset_name, backend_args)
        if any('parents' not in category for category in self._coco_api.dataset['categories']):
            raise ValueError(
                f'{ann_file} has categories without `parents`: `python -m mmplugins.metr prepare openimages` writes it'
            )

    @OneOfSeveral.dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        """Check the classes, and set what mmdet's metric looks up: names and which lies below which."""
        OneOfSeveral.dataset_meta.fset(self, meta)
        count = len(self.categories)
        if count not in KINDS:
            raise ValueError(
                f"OpenImages' metric knows releases of 500 and of 601 names, {self.dataset_name!r} has {count}; "
                f'use VocabCocoMetric'
            )
        label_of = {category: label for label, category in enumerate(self.cat_ids)}
        relation = np.eye(count)
        for label, category in enumerate(self.categories):
            relation[label, [label_of[parent] for parent in category['parents']]] = 1
        names = [category['name'] for category in self.categories]
        self._dataset_meta = dict(classes=names, dataset_type=KINDS[count], RELATION_MATRIX=relation)
        self._label_of_category = label_of

    def to_local(self, sample: dict) -> dict:
        """Return a sample with this dataset's predictions and what mmdet's metric looks up: truth and known labels.

        Raises:
            ValueError: If the image is not in the annotation file.
        """
        image = self._coco_api.imgs.get(sample['img_id'])
        if image is None:
            raise ValueError(f'image that {self.ann_file} does not list: id {sample["img_id"]}')
        instances, known = [], {*image.get(NEGATIVE, ()), *image.get(PARTLY_BOXED, ())}
        for annotation in self._coco_api.imgToAnns[image['id']]:
            x, y, w, h = annotation['bbox']
            label = self._label_of_category[annotation['category_id']]
            is_group = bool(annotation.get('iscrowd'))
            instances.append(dict(bbox=[x, y, x + w, y + h], bbox_label=label, is_group_of=is_group))
        labels = np.array([self._label_of_category[category] for category in sorted(known)], dtype=np.int64)
        return dict(super().to_local(sample), instances=instances, image_level_labels=labels)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate what :meth:`process` stored.

        Raises:
            ValueError: If no sample is of this dataset.
        """
        return super().compute_metrics(self.own_results(results))
