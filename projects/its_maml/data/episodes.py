"""Episodes: few-shot tasks that are drawn from any classification dataset of mmpretrain.

Shapes: ``N`` ways, ``K`` shots, ``q`` queries of each class, ``C, H, W`` an image.

An episode is a function of (seed, epoch, index), whoever asks for it. The number of shots changes neither the classes
nor the queries, and fewer shots are a part of more, so that arms with different shots differ in nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.utils import is_list_of
from mmpretrain.registry import DATA_SAMPLERS, DATASETS
from torch import Tensor
from torch.utils.data import Dataset

CLASSES, IMAGES, NOISE = range(3)  # streams of random numbers of an episode


@DATASETS.register_module()
class EpisodicDataset(Dataset):
    """``N``-way ``K``-shot tasks from a dataset with labels.

    Item ``index`` is a dict of ``support`` ``(N * K, C, H, W)`` and ``query`` ``(N * q, C, H, W)`` in [0, 1],
    ``support_labels`` ``(N * K,)`` and ``query_labels`` ``(N * q,)`` in 0 … N - 1, class by class,
    ``classes`` ``(N,)``, the places of the ways among all classes, and ``seed``, from which the model draws the random
    starts of its attacks.

    Args:
        dataset: Config of a dataset of mmpretrain; its pipeline ends with ``PackInputs`` and does not normalize.
        ways: Classes of an episode.
        shots: Support images of a class, ``K``; in meta-training of ITS-MAML more than in meta-test.
        queries: Query images of a class.
        num_episodes: Length; indices beyond it are the next epochs.
        seed: Of all episodes.
        class_split: Take a part of the classes, for datasets that come without a split:
            ``dict(part='train', ratio=(0.64, 0.16, 0.2), seed=0)``; parts are ``train``, ``val``, ``test``.
        cache: Keep images after the first reading as uint8. Not for random transforms: they would be frozen.

    Raises:
        ValueError: More ways than classes, or a class with fewer than ``shots + queries`` images.
    """

    def __init__(
        self,
        dataset: dict,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        num_episodes: int = 1000,
        seed: int = 0,
        class_split: dict | None = None,
        cache: bool = False,
    ) -> None:
        if min(ways - 1, shots, queries, num_episodes) < 1:
            numbers = dict(ways=ways, shots=shots, queries=queries, num_episodes=num_episodes)
            raise ValueError(f'an episode needs ways >= 2 and all others >= 1, got {numbers}')
        self.dataset = DATASETS.build(dataset)
        self.ways, self.shots, self.queries = ways, shots, queries
        self.num_episodes, self.seed = num_episodes, seed
        self._cache: dict[int, Tensor] | None = {} if cache else None
        members: dict[int, list[int]] = defaultdict(list)
        self.labels = np.asarray(self.dataset.get_gt_labels())
        for position, label in enumerate(self.labels.tolist()):
            members[label].append(position)
        self.classes = sorted(members) if class_split is None else split_classes(sorted(members), **class_split)
        self._members = {label: np.array(members[label]) for label in self.classes}
        self._check(part=(class_split or {}).get('part') or getattr(self.dataset, 'part', ''))

    @property
    def metainfo(self) -> dict:
        """Names of all classes of the dataset, as the host's hooks expect it."""
        return self.dataset.metainfo

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number if the dataset has no names."""
        names = self.dataset.metainfo.get('classes')
        return names[label] if names else str(label)

    def _check(self, part: str) -> None:
        root = getattr(self.dataset, 'data_root', '')
        source = ', '.join(filter(None, (type(self.dataset).__name__, root, part and f'part {part}')))
        if self.ways > len(self.classes):
            raise ValueError(
                f'{self.ways} ways, but {source} has {len(self.classes)} classes: add classes or take fewer ways. '
                'Where a seed divides 30 classes or more 64 : 16 : 20, each part has at least 5'
            )
        smallest = min(self.classes, key=lambda label: len(self._members[label]))
        images = len(self._members[smallest])
        if images < self.shots + self.queries:
            most = images - self.queries
            hint = f'at most {most} shots are possible' if most > 0 else f'use fewer than {images} queries'
            raise ValueError(
                f'class {self.class_name(smallest)} of {source} has {images} images, but an episode takes '
                f'{self.shots} shots + {self.queries} queries of a class; with {self.queries} queries {hint}'
            )

    def __len__(self) -> int:
        return self.num_episodes

    def positions(self, index: int) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Return the classes of an episode, and positions in the dataset of support ``(N, K)`` and query ``(N, q)``."""
        epoch, index = divmod(index, self.num_episodes)
        chosen = self._random(epoch, index, CLASSES).permutation(len(self.classes))[: self.ways]
        labels = [self.classes[i] for i in chosen]
        support, query = [], []
        for label in labels:
            # The stream is the class's own: queries first, so that they do not move when the shots grow.
            images = self._random(epoch, index, IMAGES, label).permutation(self._members[label])
            query.append(images[: self.queries])
            support.append(images[self.queries : self.queries + self.shots])
        return labels, np.stack(support), np.stack(query)

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def __getitem__(self, index: int) -> dict:
        labels, support, query = self.positions(index)
        epoch, within = divmod(index, self.num_episodes)
        return dict(
            support=self.images(support.ravel()),
            support_labels=torch.arange(self.ways).repeat_interleave(self.shots),
            query=self.images(query.ravel()),
            query_labels=torch.arange(self.ways).repeat_interleave(self.queries),
            classes=torch.tensor([self.classes.index(label) for label in labels]),
            seed=int(self._random(epoch, within, NOISE).integers(2**31)),
        )

    def images(self, positions: Sequence[int]) -> Tensor:
        """Return images ``(P, C, H, W)`` in [0, 1]; see ``stack_images``."""
        return stack_images([self._image(int(position)) for position in positions])

    def _image(self, position: int) -> Tensor:
        if self._cache is not None and position in self._cache:
            return self._cache[position]
        image = self.dataset[position]['inputs']
        if self._cache is not None:
            self._cache[position] = image
        return image


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Return images ``(C, H, W)``, uint8 or in [0, 1], as one ``(P, C, H, W)`` in [0, 1].

    Raises:
        ValueError: Images differ in size, or have values outside [0, 1].
    """
    if len({image.shape for image in images}) > 1:
        shapes = sorted({tuple(image.shape) for image in images})
        raise ValueError(f'images of one episode differ in size, {shapes[:3]}: add a Resize to the pipeline')
    stacked = torch.stack(images)
    if stacked.dtype == torch.uint8:
        return stacked.float().div_(255)
    low, high = stacked.min().item(), stacked.max().item()
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f'images must lie in [0, 1], got {low:.3g} to {high:.3g}: attacks are bounded in pixels, so put mean '
            "and std in the network's data_preprocessor, not in the pipeline"
        )
    return stacked.float()


def split_classes(
    classes: Sequence[int], part: str, ratio: Sequence[float] = (0.64, 0.16, 0.2), seed: int = 0
) -> list[int]:
    """Return the classes of one part after shuffling them by ``seed``; parts never share a class.

    Args:
        classes: Labels.
        part: ``train``, ``val`` or ``test``.
        ratio: Shares of the three parts.
        seed: Of the shuffle; the same for all three.
    """
    parts = ('train', 'val', 'test')
    if part not in parts or not is_list_of(list(ratio), (int, float)) or len(ratio) != 3:
        raise ValueError(f'class_split needs part in {parts} and three ratios, got part={part!r}, ratio={ratio}')
    shuffled = np.random.default_rng(seed).permutation(np.asarray(classes))
    ends = np.round(np.cumsum(ratio) / sum(ratio) * len(classes)).astype(int)
    start = 0 if part == 'train' else ends[parts.index(part) - 1]
    return sorted(int(label) for label in shuffled[start : ends[parts.index(part)]])


@DATA_SAMPLERS.register_module()
class EpisodeSampler(InfiniteSampler):
    """Episodes 0, 1, 2, … without end; rank ``r`` of ``R`` takes ``r, r + R, …``, so all ranks together take all.

    No episode comes twice, whatever the number of updates, and a resumed run goes on with the next one.

    Args:
        dataset: An ``EpisodicDataset``.
        seed: Not used, mmengine gives it to every sampler: the order is fixed and the dataset has the seed.
    """

    def __init__(self, dataset: Dataset, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle=False, seed=0)

    def _infinite_indices(self) -> Iterator[int]:
        yield from count()
