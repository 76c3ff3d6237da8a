"""Samples of several sets in given shares, for iteration-based runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from mmdet.registry import DATA_SAMPLERS
from mmengine.dataset import InfiniteSampler
from torch.utils.data import ConcatDataset


@DATA_SAMPLERS.register_module()
class InfiniteRatioSampler(InfiniteSampler):
    """Draw from the sets of a ``ConcatDataset`` in exact shares; within one, all samples before any comes again.

    Not in the paper: how the authors mix their sets is not known. mmdet's ``MultiDataSampler`` draws a whole epoch with
    replacement by float32 ``multinomial``, which over millions of weights is off by several percent and takes seconds.

    All ranks walk along one stream and take turns, so that the shares are those of the whole job. Memory: one order of
    each set. For ``IterBasedTrainLoop``: it has no end, and :class:`CheckVocabularyHook` refuses it in a run of epochs.

    Args:
        dataset: Several sets as one.
        dataset_ratio: Whole numbers: of each ``sum(dataset_ratio)`` samples, how many are of each set. 0 leaves it out.
        seed: Of the orders, the same in all ranks. None: drawn by the main process.
        shuffle: Must be True. It is here because a child config inherits it with the sampler of its base.

    Raises:
        TypeError: ``dataset`` does not consist of several.
        ValueError: ``dataset_ratio`` is of another length, negative, no whole number or zero everywhere, or asks for
            samples of an empty set; or ``shuffle`` is False.
    """

    def __init__(
        self, dataset: ConcatDataset, dataset_ratio: Sequence[int], seed: int | None = None, shuffle: bool = True
    ) -> None:
        if not shuffle:
            raise ValueError('InfiniteRatioSampler draws in random order only: leave out `shuffle=False`')
        if not isinstance(dataset, ConcatDataset):
            raise TypeError(f'InfiniteRatioSampler mixes the sets of a ConcatDataset, not a {type(dataset).__name__}')
        self.sizes = [len(one) for one in dataset.datasets]
        self.dataset_ratio = list(dataset_ratio)
        whole = all(isinstance(share, int) and share >= 0 for share in self.dataset_ratio)
        if len(self.sizes) != len(self.dataset_ratio) or not whole or not any(self.dataset_ratio):
            raise ValueError(
                f'`dataset_ratio` must have one whole number for each of {len(self.sizes)} sets, and not only zeros, '
                f'got {dataset_ratio}'
            )
        if any(share and not size for share, size in zip(self.dataset_ratio, self.sizes, strict=True)):
            raise ValueError(
                f'`dataset_ratio` {dataset_ratio} asks for samples of an empty set; sizes are {self.sizes}'
            )
        super().__init__(dataset, shuffle=True, seed=seed)

    def _infinite_indices(self) -> Iterator[int]:
        """Yield the stream of all ranks: in each period of ``sum(dataset_ratio)`` the shares, in random order."""
        starts = np.cumsum([0, *self.sizes[:-1]]).tolist()
        streams = [self._orders(number, *place) for number, place in enumerate(zip(starts, self.sizes, strict=True))]
        period = np.repeat(np.arange(len(self.sizes)), self.dataset_ratio)
        rng = np.random.default_rng([self.seed, len(self.sizes)])
        while True:
            for number in rng.permutation(period).tolist():
                yield next(streams[number])

    def _orders(self, number: int, start: int, size: int) -> Iterator[int]:
        """Yield the samples of a set in one random order after another."""
        rng = np.random.default_rng([self.seed, number])
        while True:
            for index in rng.permutation(size):
                yield start + int(index)
