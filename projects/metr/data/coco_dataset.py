"""One COCO-style set: checked, with classes in label order, and parsed once for all processes of a node."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import print_log

from .coco_json import CheckedCOCO, categories_of, clean_box
from .federated import NEGATIVE, is_federated, known_categories
from .label_map import ANNOTATED, write_annotated
from .sample_file import SampleFile, shared_samples

OPTIONS = (
    'data_prefix', 'name_parts', 'filter_cfg', 'test_mode', 'seg_map_suffix', 'return_classes', 'caption_prompt',
)  # fmt: skip
"""Attributes that decide what the samples are."""


@DATASETS.register_module()
class VocabCocoDataset(CocoDataset):
    """A COCO dataset whose classes are in label order, and whose annotation file is checked.

    mmdet numbers labels in the order of the file's categories, whatever the order of ``metainfo['classes']`` is, so a
    config that lists them otherwise shows wrong names. Here ``metainfo['classes']`` is put into the file's order and
    spelling when the file is read. Boxes are clipped to the image; degenerate ones are dropped, with one warning.

    A file that says for each image what was looked for (LVIS, or what ``prepare openimages`` writes; see
    :mod:`mmplugins.metr.data.federated`) gives samples ``annotated_labels`` and ``partly_boxed_labels``.

    Args:
        *args: See :class:`mmdet.datasets.CocoDataset`.
        metainfo: May hold ``classes``, in any order and in any spelling that
            :func:`~mmplugins.metr.text.vocabulary.normalize_name` makes equal. None or without it: all categories of
            the file, which is then read even if ``lazy_init``.
        name_parts: How many parts of a file name to keep, counted from its end: 2 for Objects365 v2, whose json says
            ``images/v1/patch8/x.jpg`` of ``train/patch8/x.jpg``. None: all.
        cache_dir: Folder for the parsed samples, such as that of the annotation file. One process of a node parses the
            file, all others map what it wrote into memory, also in later runs. Not for proposals, nor for an annotation
            file on a server. None: each process parses for itself.
        lazy_init: Whether to leave the file alone for now. False.
        **kwargs: See :class:`mmdet.datasets.CocoDataset`.

    Raises:
        FileNotFoundError: If there is no annotation file.
        PermissionError: If ``cache_dir`` cannot be written to.
        ValueError: If the file is broken, lacks a class, or no image is left after ``filter_cfg``; or ``cache_dir``
            comes with ``proposal_file`` or with an annotation file on a server.
    """

    METAINFO: dict = {}  # not COCO's 80 names: they would silently stand in for classes that were forgotten

    def __init__(
        self,
        *args,
        metainfo: Mapping | None = None,
        name_parts: int | None = None,
        cache_dir: str | None = None,
        lazy_init: bool = False,
        **kwargs,
    ) -> None:
        lazy_init = lazy_init and 'classes' in (metainfo or {})
        self.name_parts = name_parts
        self.cache_dir = cache_dir
        self._clipped = self._dropped = 0
        super().__init__(*args, metainfo=metainfo, lazy_init=lazy_init, **kwargs)

    def COCOAPI(self, path: str) -> CheckedCOCO:  # noqa: N802
        """Open the annotation file. The host's attribute of this name is a class that it calls in the same way.

        As a method it also puts the classes into the file's order, between opening the file and the host's next line,
        which numbers them.
        """
        coco = CheckedCOCO(path, need_annotations=not self.test_mode)
        categories = categories_of(coco, self._metainfo.get('classes'), self.ann_file)
        self._metainfo['classes'] = tuple(category['name'] for category in categories)
        self._metainfo['federated'] = is_federated(coco.dataset['images'])
        return coco

    def full_init(self) -> None:
        """Read the annotation file, or the samples that a process has made of it."""
        if self._fully_initialized:
            return
        if self.cache_dir is None:
            super().full_init()
            return
        self._check_cacheable()
        options = {name: getattr(self, name) for name in OPTIONS}
        # A subclass may parse otherwise.
        options['type'] = f'{type(self).__module__}.{type(self).__qualname__}'
        options.update(classes=self._metainfo.get('classes'), indices=self._indices)
        # The host hands out copies of the entries of `data_list`, which need not be a list.
        self.serialize_data = False
        self.data_list = shared_samples(self.cache_dir, self.ann_file, options, self._parse)
        self._metainfo.update(self.data_list.meta, classes=tuple(self.data_list.meta['classes']))
        self._fully_initialized = True

    def _check_cacheable(self) -> None:
        """Refuse what a file of samples cannot hold, or could not be told from an older file."""
        if self.proposal_file is not None:
            raise ValueError(f'`cache_dir` keeps no proposals: leave it or `proposal_file` {self.proposal_file} out')
        if not isinstance(get_file_backend(self.ann_file, backend_args=self.backend_args), LocalBackend):
            raise ValueError(
                f'`cache_dir` needs an annotation file on this machine: copy {self.ann_file}, or leave `cache_dir` out'
            )

    def _parse(self) -> tuple[list[dict], dict]:
        """Read the annotation file as the host does; return the samples and what it tells of itself."""
        super().full_init()
        samples, self.data_list = self.data_list, []
        self.cat_img_map = {}  # only the filter reads it
        return samples, {key: self._metainfo[key] for key in ('classes', 'federated')}

    def load_data_list(self) -> list[dict]:
        """Load all images, then say once how many boxes were not as they should be."""
        data_list = super().load_data_list()
        if self._clipped or self._dropped:
            text = (
                f'{self.ann_file}: {self._clipped} boxes reach beyond their image and were clipped, '
                f'{self._dropped} are degenerate or outside and were dropped'
            )
            print_log(text, logger='current', level=logging.WARNING)
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Clip the boxes of an image, then parse it as the host does."""
        image = raw_data_info['raw_img_info']
        kept, dropped = [], []
        for annotation in raw_data_info['raw_ann_info']:
            if annotation['category_id'] not in self.cat2label:
                continue
            clean = clean_box(annotation['bbox'], image['width'], image['height'])
            if clean is None or annotation['area'] <= 0:
                dropped.append({**annotation, 'iscrowd': 1})  # no better than a crowd: something is there
                continue
            box, was_cut = clean
            self._clipped += was_cut
            kept.append({**annotation, 'bbox': box})
        self._dropped += len(dropped)
        if self.name_parts is not None:
            image = {**image, 'file_name': '/'.join(image['file_name'].split('/')[-self.name_parts :])}
        info = super().parse_data_info({'raw_img_info': image, 'raw_ann_info': kept})
        if NEGATIVE in image:
            known = known_categories(image, kept + dropped)
            info.update(zip(ANNOTATED, map(self._labels, known), strict=True))
        return info

    def _labels(self, categories: Iterable) -> list[int]:
        """Return the labels of the categories that are among the classes."""
        return sorted(self.cat2label[category] for category in categories if category in self.cat2label)

    def get_data_info(self, idx: int) -> dict:
        """Return the sample as it was parsed: JSON has no tuples, and mmdet's grounding detectors hash ``text``."""
        info = super().get_data_info(idx)
        if self.return_classes:
            info['text'] = self._metainfo['classes']
        return info

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline; what is annotated in the image comes through, also if no ``meta_keys`` name it."""
        info = self.get_data_info(idx)
        annotated = {key: info[key] for key in ANNOTATED if key in info}
        sample = self.pipeline(info)
        return None if sample is None else write_annotated(sample, annotated)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of each box; ``ClassBalancedDataset`` asks it of every image, twice."""
        return self.data_list.labels(idx) if isinstance(self.data_list, SampleFile) else super().get_cat_ids(idx)

    def filter_data(self) -> list[dict]:
        """Filter as the host does; an empty result is an error, which the host reports as one of numpy's."""
        data_list = super().filter_data()
        if not data_list:
            raise ValueError(f'{self.ann_file}: no image is left after filter_cfg={self.filter_cfg}')
        return data_list
