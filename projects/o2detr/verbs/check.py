"""What a config is going to read and do, before it does: labels, pictures, classes, scales, iterations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from mmengine.config import Config
from mmrotate.registry import DATASETS

from .scales import enlarged, first_resize

PARTS = ('train', 'val', 'test')
SHOWN = 5  # files that a message names
SAME_SCALE = 1.25  # pictures may be shown so much larger in one part than in another


def dicts_of(node: object) -> Iterator[dict]:
    """Yield the config of a data set and all dictionaries in it, so those of the data sets that it joins."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from dicts_of(value)


def shown_at(dataset: dict, size: Sequence[float]) -> float | None:
    """Return by how much a data set enlarges a picture of a width and height; None if that is drawn."""
    pipelines = [node['pipeline'] for node in dicts_of(dataset) if node.get('pipeline')]
    return enlarged(next(filter(first_resize, pipelines), ()), size)


def named(paths: Sequence[str]) -> str:
    """A few of many files."""
    return ', '.join(map(str, paths[:SHOWN])) + (f' and {len(paths) - SHOWN} more' if len(paths) > SHOWN else '')


class Check:
    """Facts and faults of a config; see :meth:`run`.

    Args:
        cfg: Config of a rotated detector.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.facts: list[str] = []
        self.faults: list[str] = []
        self.most = 0  # objects in a picture
        self.scales: dict[str, float] = {}

    def run(self) -> None:
        """Read everything; fill :attr:`facts` and :attr:`faults`."""
        seen = []
        for part in PARTS:
            loader = self.cfg.get(f'{part}_dataloader')
            if loader and loader.dataset not in seen:
                seen.append(loader.dataset)
                self.check_part(part, loader)
        if len(self.scales) > 1 and max(self.scales.values()) > SAME_SCALE * min(self.scales.values()):
            shown = ', '.join(f'{scale:.3g} times in {part}' for part, scale in self.scales.items())
            self.faults.append(f'pictures are enlarged {shown}: objects have another size than the model learned')
        queries = self.cfg.model.get('num_queries')
        if queries and self.most > queries:
            self.faults.append(f'a picture has {self.most} objects, more than num_queries={queries} can find')

    def check_part(self, part: str, loader: dict) -> None:
        """Read the labels and the pictures of a part."""
        try:
            with DATASETS.switch_scope_and_registry(loader.dataset.get('_scope_')) as registry:
                dataset = registry.build(loader.dataset)
                pictures = [dataset.get_data_info(index) for index in range(len(dataset))]
        except (ValueError, OSError, LookupError) as error:
            fault = f'{part}: {error!r}' if isinstance(error, LookupError) else f'{part}: {error}'
            if any('DOTADataset' in str(node.get('type')) for node in dicts_of(loader.dataset)):
                fault += "; DOTADataset does not say where: type='DOTATextDataset' names file and line"
            self.faults.append(fault)
            return
        if not pictures:
            self.faults.append(f'{part}: no pictures')
            return
        sizes = self.check_pictures(part, [picture['img_path'] for picture in pictures])
        classes = dataset.metainfo['classes']
        self.check_objects(part, pictures, sizes, classes)
        self.check_classes(len(classes))
        if sizes:
            middle = np.median(list(sizes.values()), axis=0)
            scale = shown_at(loader.dataset, middle)
            shown = 'to a size that is drawn' if scale is None else f'{scale:.3g} times'
            if scale is not None:
                self.scales[part] = scale
            low, high = np.min(list(sizes.values()), axis=0), np.max(list(sizes.values()), axis=0)
            between = '' if (low == high).all() else f' to {high[0]:.0f}x{high[1]:.0f}'
            self.facts.append(f'{part}: pictures of {low[0]:.0f}x{low[1]:.0f}{between}, enlarged {shown}')
        if part == 'train' and self.cfg.get('train_cfg'):
            self.count_iterations(len(pictures), loader.batch_size)

    def check_pictures(self, part: str, paths: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return width and height of the pictures that can be read."""
        sizes, broken = {}, []
        for path in paths:
            image = cv2.imread(path)
            if image is None:
                broken.append(path)
            else:
                sizes[path] = image.shape[1::-1]
        if broken:
            self.faults.append(f'{part}: no picture can be read from {named(broken)}')
        return sizes

    def check_objects(self, part: str, pictures: Sequence[dict], sizes: dict, classes: Sequence[str]) -> None:
        """Count objects, and look where they are."""
        counts, ignored, outside = Counter(), 0, []
        for picture in pictures:
            # Of eight numbers, as all data sets of mmrotate have them.
            objects = [each for each in picture['instances'] if len(each['bbox']) == 8]
            self.most = max(self.most, len(objects))
            width, height = sizes.get(picture['img_path'], (math.inf, math.inf))
            for each in objects:
                counts[each['bbox_label']] += 1
                ignored += each['ignore_flag']
                corners = np.reshape(each['bbox'], (-1, 2))
                if (corners.max(0) < 0).any() or (corners.min(0) > (width, height)).any():
                    outside.append(picture['img_path'])
        if outside:
            self.faults.append(f'{part}: {len(outside)} objects lie outside of their picture, in {named(outside)}')
        if missing := [name for label, name in enumerate(classes) if not counts[label]]:
            self.facts.append(f'{part}: no object of {", ".join(missing)}')
        fate = 'background' if part == 'train' else 'not counted'
        listed = ', '.join(f'{classes[label]} {count:,}' for label, count in sorted(counts.items()))
        self.facts.append(f'{part}: {len(pictures):,} pictures; {listed}; {ignored} of them difficult: {fate}')

    def check_classes(self, number: int) -> None:
        """Compare the number of classes with that of all heads."""
        stages = self.cfg.model.get('roi_head', {}).get('bbox_head', [])
        heads = [self.cfg.model.get('bbox_head'), *(stages if isinstance(stages, list) else [stages])]
        found = {head['num_classes'] for head in heads if head}
        fault = f'the data have {number} classes, num_classes of the heads is {sorted(found)}'
        if found != {number} and fault not in self.faults:
            self.faults.append(fault)

    def count_iterations(self, pictures: int, batch: int) -> None:
        """Say how long the training is."""
        cfg = self.cfg.train_cfg
        iterations = cfg.get('max_iters') or cfg.max_epochs * math.ceil(pictures / batch)
        epochs = iterations * batch / pictures
        self.facts.append(f'train: {iterations:,} iterations of {batch} pictures, {epochs:.1f} times all, on one GPU')
