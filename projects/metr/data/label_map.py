"""Labels of one dataset turned into rows of the vocabulary, in whatever form a dataset hands out its samples.

Shapes: ``G`` boxes of an image, ``V`` names in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..text.vocabulary import Vocabulary, normalize_name

ANNOTATED = ('annotated_labels', 'partly_boxed_labels')
"""Keys of a sample that knows what was looked for in its image: labels of its data set. As rows of the vocabulary they
are ``annotated_rows`` and ``partly_boxed_rows``."""


def rows_of_classes(vocabulary: Vocabulary, dataset_name: str, classes: Sequence[str]) -> list[int]:
    """Return the row of each class in the order in which the dataset numbers its labels.

    The vocabulary lists the same classes, perhaps in another order and spelling: an annotation file has an order of
    its own, and train and validation files may differ.

    Args:
        vocabulary: The vocabulary.
        dataset_name: A dataset of the vocabulary.
        classes: The classes of the loaded dataset, in label order.

    Raises:
        KeyError: If the vocabulary has no dataset of this name.
        ValueError: If the loaded dataset has other classes than the vocabulary says. A class that only the vocabulary
            has would count as annotated, so its objects would be trained as background.
    """
    rows = vocabulary.rows(dataset_name)
    row_of = {normalize_name(c): row for c, row in zip(vocabulary.datasets[dataset_name], rows, strict=True)}
    loaded = [normalize_name(name) for name in classes]
    extra, absent = sorted(set(loaded) - set(row_of)), sorted(set(row_of) - set(loaded))
    if extra or absent:
        raise ValueError(
            f'dataset {dataset_name!r} and the vocabulary disagree: only the dataset has {extra}, '
            f'only the vocabulary has {absent}'
        )
    return [row_of[name] for name in loaded]


def to_global(sample: dict, rows: Sequence[int], dataset_name: str) -> dict:
    """Map the labels of a sample and write the dataset's name into it, in place.

    Args:
        sample: What a dataset's ``__getitem__`` or ``get_data_info`` returns: ``data_samples`` (a ``DetDataSample``
            with ``gt_instances.labels`` and ``ignored_instances.labels``, ``(G,)``), or plain keys
            (``gt_bboxes_labels`` ``(G,)``, ``instances``).
        rows: Row of each label.
        dataset_name: Goes to ``dataset_name``; for a packed sample into its metainfo, so pipelines need not list it
            in ``meta_keys``.

    Returns:
        The same dict.
    """
    if 'data_samples' in sample:
        packed = sample['data_samples']
        table = torch.tensor(rows, dtype=torch.long)
        for key in ('gt_instances', 'ignored_instances'):
            instances = packed.get(key)
            if instances is not None and 'labels' in instances:
                instances.labels = table[instances.labels]
        packed.set_metainfo(dict(dataset_name=dataset_name))
        for key in ANNOTATED:
            if key in packed:
                packed.set_metainfo({_row_key(key): [rows[label] for label in packed.pop(key)]})
        _map_instances(packed.metainfo.get('instances', ()), rows)
        return sample
    if 'gt_bboxes_labels' in sample:
        sample['gt_bboxes_labels'] = np.asarray(rows, dtype=np.int64)[sample['gt_bboxes_labels']]
    for key in ANNOTATED:
        if key in sample:
            sample[_row_key(key)] = [rows[label] for label in sample.pop(key)]
    _map_instances(sample.get('instances', ()), rows)
    sample['dataset_name'] = dataset_name
    return sample


def write_annotated(sample: dict, annotated: dict) -> dict:
    """Write what is annotated in the image into a sample after its pipeline, packed or not."""
    if 'data_samples' in sample:
        sample['data_samples'].set_metainfo(annotated)
        return sample
    return {**sample, **annotated}


def _row_key(key: str) -> str:
    return key.replace('_labels', '_rows')


def _map_instances(instances: Sequence[dict], rows: Sequence[int]) -> None:
    """Map the labels of raw annotations, mmdet's ``instances``."""
    for instance in instances:
        instance['bbox_label'] = rows[instance['bbox_label']]
