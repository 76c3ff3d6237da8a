"""Several detection datasets with classes of their own, trained and evaluated as one.

METR (arXiv 2304.03580) pretrains jointly on several datasets; the authors' code reads one merged annotation file.
Here the files stay as they are and labels are mapped when a sample is read.

mmdet's ``ConcatDataset`` takes datasets with different classes, but maps no labels and its metainfo becomes a list,
which ``Runner`` stores in the checkpoint and on which ``DetInferencer`` then fails. Hence one metainfo dict.
"""

from __future__ import annotations

import colorsys
import copy
from collections.abc import Mapping, Sequence

from mmdet.datasets import ConcatDataset
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset

from ..text.vocabulary import Vocabulary
from .label_map import rows_of_classes, to_global


@DATASETS.register_module()
class MultiVocabConcatDataset(ConcatDataset):
    """Datasets with different, partly overlapping classes as one dataset over one vocabulary.

    Each sample carries the name of its dataset (``dataset_name``), and its labels are rows of the vocabulary. Works
    with mmdet's ``MultiDataSampler``, ``MultiDataAspectRatioBatchSampler`` and ``MultiDatasetsEvaluator``.

    Args:
        datasets: Name to dataset config (or dataset). Wrappers (``RepeatDataset``, ``ClassBalancedDataset``,
            ``MultiImageMixDataset``) may stand around a dataset.
        vocabulary: Vocabulary, or the arguments of :class:`~mmplugins.metr.text.vocabulary.Vocabulary`. It may have
            more datasets than are given here: the model of a joint pretraining is finetuned on one. None: made of the
            classes of ``datasets``.
        pipeline: For every dataset that has none. At the top level ``DetInferencer`` looks for it. None: no pipeline.
        palette: RGB color of each name, 0–255. None: generated.
        lazy_init: Whether to leave the files alone for now; with a vocabulary the metainfo is there at once, as
            ``DetInferencer`` needs it where the data are not. Without one, files are read in any case. False.

    Attributes:
        metainfo: ``classes``, ``datasets``, ``dataset_classes`` (see ``Vocabulary.to_metainfo``), ``palette``, and
            once the files are read ``cumulative_sizes``.

    Raises:
        TypeError: If ``datasets`` is not a mapping.
        KeyError: If the vocabulary lacks a dataset.
        ValueError: If there is no dataset, a dataset and the vocabulary disagree about its classes, or ``palette``
            has another length than the vocabulary.

    Note:
        Not in the paper: our decision, because users ask to join datasets without editing annotation files.
    """

    def __init__(
        self,
        datasets: Mapping[str, dict | BaseDataset],
        vocabulary: Vocabulary | Mapping | None = None,
        pipeline: Sequence[dict] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        lazy_init: bool = False,
    ) -> None:
        if not isinstance(datasets, Mapping):
            raise TypeError(f'`datasets` must map names to datasets, got {type(datasets).__name__}')
        if not datasets:
            raise ValueError('`datasets` is empty')
        self.dataset_names = list(datasets)
        self._sources = [_with_pipeline(source, pipeline) for source in datasets.values()]
        self._fully_initialized = False
        if vocabulary is None:
            self._build()
            vocabulary = dict(datasets={name: c for name, c in zip(self.dataset_names, self._classes(), strict=True)})
        self.vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(**vocabulary)
        for name in self.dataset_names:
            self.vocabulary.rows(name)  # an unknown name is an error now, also when lazy
        self._metainfo = self.vocabulary.to_metainfo()
        self._metainfo['palette'] = _checked_palette(palette, len(self.vocabulary))
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Build the datasets, read their files, and check their classes against the vocabulary."""
        if self._fully_initialized:
            return
        metainfo = self._metainfo
        if not hasattr(self, 'datasets'):
            self._build()
        self._metainfo = metainfo  # the host's constructor, in _build, sets its own
        super().full_init()
        self._rows = [
            rows_of_classes(self.vocabulary, name, classes)
            for name, classes in zip(self.dataset_names, self._classes(), strict=True)
        ]
        self._federated = [innermost(dataset).metainfo.get('federated', False) for dataset in self.datasets]
        self._metainfo['cumulative_sizes'] = list(self.cumulative_sizes)

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of a sample, with labels of the vocabulary and ``dataset_name``."""
        info = super().get_data_info(idx)
        source = self.get_dataset_source(idx)
        return to_global(info, self._rows[source], self.dataset_names[source])

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the rows of the categories in an image, one per box; ``ClassBalancedDataset`` asks for it."""
        return [instance['bbox_label'] for instance in self.get_data_info(idx)['instances']]

    def __getitem__(self, idx: int) -> dict:
        """Return a sample after the pipeline of its dataset, with labels of the vocabulary and ``dataset_name``."""
        sample = super().__getitem__(idx)
        source = self.get_dataset_source(idx)
        to_global(sample, self._rows[source], self.dataset_names[source])
        if self._federated[source] and 'annotated_rows' not in sample.get('data_samples', sample):
            raise ValueError(
                f'the file of dataset {self.dataset_names[source]!r} says for each image what was looked for, and a '
                'wrapper around the dataset has lost it: mixed images cannot be used with such a file'
            )
        return sample

    def _build(self) -> None:
        """Build the datasets. Not lazily: only a loaded file tells the order of its classes."""
        super().__init__(self._sources, lazy_init=True)

    def _classes(self) -> list[tuple[str, ...]]:
        """Return the classes of each dataset in label order; wrappers hold copies that may be older."""
        return [tuple(innermost(dataset).metainfo['classes']) for dataset in self.datasets]


def innermost(dataset: BaseDataset) -> BaseDataset:
    """Return the dataset inside any wrappers."""
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return dataset


def _with_pipeline(source: dict | BaseDataset, pipeline: Sequence[dict] | None) -> dict | BaseDataset:
    """Return a copy of a config whose innermost dataset has a pipeline; a dataset that is built stays as it is."""
    if not isinstance(source, dict) or pipeline is None:
        return source
    source = copy.deepcopy(source)
    inner = source
    while 'dataset' in inner:
        inner = inner['dataset']
    inner.setdefault('pipeline', copy.deepcopy(pipeline))
    return source


def _checked_palette(palette: Sequence[Sequence[int]] | None, size: int) -> list[tuple[int, int, int]]:
    """Return ``size`` RGB colors. Generated ones step the hue by the golden ratio, so appending changes none."""
    if palette is not None:
        if len(palette) != size:
            raise ValueError(f'`palette` has {len(palette)} colors, the vocabulary {size} names')
        return [tuple(color) for color in palette]
    colors = (colorsys.hsv_to_rgb(row * 0.618034 % 1, 0.85, 0.95) for row in range(size))
    return [tuple(round(255 * channel) for channel in color) for color in colors]
