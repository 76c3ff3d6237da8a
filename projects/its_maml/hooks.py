"""Hooks: dimension of features while training, and what an experiment is."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from mmplugins.utils.wrappers import model_of

from .data.episodes import EpisodicDataset
from .intrinsic_dim import ESTIMATORS, dimension_or_nan
from .robust_maml import RobustMAML


def fixed_positions(dataset: EpisodicDataset, num_classes: int, per_class: int, seed: int) -> np.ndarray:
    """Return positions ``(P,)`` of a list of images that depends on the dataset and ``seed`` alone, mixed by class."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(dataset.classes)[:num_classes]
    positions = [rng.permutation(np.flatnonzero(dataset.labels == label))[:per_class] for label in chosen]
    return rng.permutation(np.concatenate(positions))


@torch.no_grad()
def meta_features(model: RobustMAML, images: Tensor, batch_size: int = 100) -> Tensor:
    """Return the input of the head at the meta-parameters, without adaptation: ``(P, C, H, W)`` to ``(P, F)``.

    The batches are as equal as can be and at most ``batch_size``: a last batch of one has no batch statistics.
    """
    batches = images.tensor_split(-(-len(images) // batch_size))
    return torch.cat([model.learner(batch, 'features').cpu() for batch in batches])


@HOOKS.register_module()
class IntrinsicDimensionHook(Hook):
    """Measure the intrinsic dimension of clean features after each validation and test.

    Not in the paper as far as we could read it: of which features. Ours are the inputs ``(P, F)`` of the head at the
    meta-parameters, on one fixed list of images of the classes that are validated or tested, the same for every model,
    so that more shots cannot raise it by more samples. The metrics get ``id/<estimator>`` and ``id/images``, a checksum
    of the list: numbers with different checksums do not compare.

    Args:
        num_classes: Classes of the list, at most.
        per_class: Images of a class, at most.
        estimators: Of ``pca90``, ``pca95``, ``twonn``, ``mle``.
        batch_size: Images that share the statistics of a batch norm.
        seed: Of the list.
    """

    def __init__(
        self,
        num_classes: int = 20,
        per_class: int = 50,
        estimators: Sequence[str] = ('pca90', 'twonn', 'mle'),
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        unknown = set(estimators) - set(ESTIMATORS)
        if unknown:
            raise ValueError(f'estimators must be of {sorted(ESTIMATORS)}, got {sorted(unknown)}')
        self.num_classes, self.per_class, self.seed = num_classes, per_class, seed
        self.estimators, self.batch_size = tuple(estimators), batch_size

    def measure(self, model: RobustMAML, dataset: EpisodicDataset) -> dict[str, float]:
        """Return the dimensions and the checksum of the list."""
        positions = fixed_positions(dataset, self.num_classes, self.per_class, self.seed)
        device = next(model.parameters()).device
        features = meta_features(model, dataset.images(positions).to(device), self.batch_size)
        found = {f'id/{name}': dimension_or_nan(features, name) for name in self.estimators}
        return {**found, 'id/images': float(zlib.crc32(positions.astype(np.int64).tobytes()))}

    def _add(self, runner: Runner, part: str, dataset: Any, metrics: dict[str, float] | None) -> None:
        found = self.measure(model_of(runner), dataset)
        for name, value in found.items():
            runner.message_hub.update_scalar(f'{part}/{name}', value)
        if metrics is not None:
            metrics.update(found)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Measure on the classes of validation."""
        self._add(runner, 'val', runner.val_dataloader.dataset, metrics)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Measure on the classes of the test."""
        self._add(runner, 'test', runner.test_dataloader.dataset, metrics)


@HOOKS.register_module()
class CheckEpisodesHook(Hook):
    """Say in the log which method this is, and refuse or warn about data that do not fit the model."""

    def before_train(self, runner: Runner) -> None:
        """Compare the shots of training and validation, and the ways with the head."""
        train = runner.train_dataloader.dataset
        val = runner.val_loop and runner.val_loop.dataloader.dataset
        model_of(runner).check_ways(train.ways, len(train.classes), training=True)
        name = method_name(model_of(runner), train.shots, val.shots if val else train.shots)
        shots = f'{train.shots} shots in training, {val.shots} in validation' if val else f'{train.shots} shots'
        runner.logger.info(f'{name}: {train.ways} ways, {shots}, {train.queries} queries; {len(train.classes)} classes')
        if val and train.shots < val.shots:
            warnings.warn(
                f'meta-training has fewer shots than meta-test ({train.shots} < {val.shots}); ITS-MAML asks for more',
                stacklevel=2,
            )
        shared = val and {train.class_name(label) for label in train.classes} & {
            val.class_name(label) for label in val.classes
        }
        if shared and train.dataset.metainfo.get('classes'):
            warnings.warn(
                f'{len(shared)} classes are in training and validation, {min(shared)} one of them', stacklevel=2
            )

    def before_val(self, runner: Runner) -> None:
        """Compare the ways with the head."""
        self._check_test(runner, runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Compare the ways with the head."""
        self._check_test(runner, runner.test_dataloader.dataset)

    def _check_test(self, runner: Runner, dataset: EpisodicDataset) -> None:
        model_of(runner).check_ways(dataset.ways, len(dataset.classes), training=False)


def method_name(model: RobustMAML, train_shots: int, test_shots: int) -> str:
    """Return the name of the variant."""
    base = model.base
    if model.crossed:
        name = 'ADML'
    elif not model.reg_weight:
        return base if train_shots == test_shots else f'{base}, {train_shots} training shots'
    elif not model.clean_weight:
        name = 'AQ' if base == 'MAML' else f'AQ ({base})'
    else:
        name = f'R-{base}' if model.reg == 'ce' else f'R-{base} (TRADES)'
    if train_shots <= test_shots:
        return f'{name} (plain: no more shots in training than in test)' if train_shots == test_shots else name
    return f'ITS-{base}' if name == f'R-{base}' else f'ITS-{base} ({name})'
