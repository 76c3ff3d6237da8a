"""A few-shot learner as a model of mmengine: how episodes are run, whatever is learned from them.

Shapes: ``T`` tasks of a batch, ``N`` ways, ``K`` shots, ``q`` queries of a class, ``C, H, W`` an image, ``F`` features,
``P`` a weight's own shape.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmpretrain.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from .backbones import use_batch_statistics
from .learner import CarryGradient, Learner, Weights

Episode = dict[str, Tensor]


class EpisodicModel(BaseModel):
    """Losses, gradients and predictions of a batch of episodes, clean and under attacks.

    Inputs of an episode are those of ``EpisodicDataset``, stacked: ``support (T, N * K, C, H, W)`` in [0, 1] and so on.

    Args:
        network: Config of an ``ImageClassifier`` of mmpretrain, with a head of ``N`` classes; mean and std in its
            ``data_preprocessor``.
        test_attacks: Configs of the attacks in validation and test, by name.
        norm: ``task_batch`` (R-MAML's code, transductive) or ``instance``; see ``use_batch_statistics``.
        engine: ``auto``, ``loop`` or ``vmap``; see ``Learner``.
        chunk_size: Tasks that are in memory at once with ``vmap``; default: all. The loop engine always holds one
            task.
        with_features: Add features of clean and attacked queries to predictions, for their dimension.

    Raises:
        ValueError: An attack has the name of a field of predictions, or ``chunk_size`` is below 1.
    """

    def __init__(
        self,
        network: dict,
        test_attacks: dict[str, dict] | None = None,
        norm: str = 'task_batch',
        engine: str = 'auto',
        chunk_size: int | None = None,
        with_features: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f'chunk_size={chunk_size}: at least one task is in memory at once')
        taken = {'labels', 'clean', 'clean_features', 'noise'} & set(test_attacks or {})
        if taken:
            raise ValueError(f'test_attacks may not be called {sorted(taken)}: predictions have fields of these names')
        classifier = MODELS.build(network)
        changed = use_batch_statistics(classifier, norm)
        if changed and norm == 'task_batch':
            warnings.warn(
                f'{len(changed)} batch norms, {changed[0]} the first, now use the statistics of the batch, also in '
                "test: predictions are transductive. norm='instance' avoids that.",
                stacklevel=2,
            )
        self.learner = Learner(classifier, engine)
        self.test_attacks = {name: TASK_UTILS.build(cfg) for name, cfg in (test_attacks or {}).items()}
        self.chunk_size, self.with_features = chunk_size, with_features

    @abstractmethod
    def objective(self, weights: Weights, episode: Episode) -> dict[str, Tensor]:
        """Outer loss of each task as a function of the meta-parameters.

        Args:
            weights: ``(T, P)`` each: the meta-parameters, once for each task.
            episode: As in ``forward``.

        Returns:
            ``total`` and what else is logged, each ``(T,)``.
        """

    @abstractmethod
    def adapt_for_test(self, episode: Episode) -> Weights:
        """Adapt to the support in meta-test; the meta-parameters do not change."""

    @abstractmethod
    def describe(self) -> str:
        """Return in one line what is trained."""

    @property
    def transductive(self) -> bool:
        """Whether the prediction for a query depends on the other queries, by batch norm."""
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules())

    def check_ways(self, ways: int, classes: int, training: bool) -> None:
        """Compare the head with the data.

        Args:
            ways: Of an episode.
            classes: Of all episodes.
            training: Whether these are episodes of meta-training.

        Raises:
            ValueError: The head has another number of classes than an episode.
        """
        found = self.learner.classifier.head.num_classes
        if found != ways:
            raise ValueError(f'the head has num_classes={found}, but episodes have {ways} ways')

    def forward(
        self,
        support: Tensor,
        support_labels: Tensor,
        query: Tensor,
        query_labels: Tensor,
        seed: Tensor | Sequence[int],
        classes: Tensor | None = None,
        mode: str = 'tensor',
    ) -> dict[str, Tensor] | list[BaseDataElement] | Tensor:
        """Run a batch of episodes.

        Args:
            support: ``(T, N * K, C, H, W)`` in [0, 1].
            support_labels: ``(T, N * K)`` in 0 … N - 1.
            query: ``(T, N * q, C, H, W)`` in [0, 1].
            query_labels: ``(T, N * q)``.
            seed: ``(T,)``, of the random starts of attacks.
            classes: ``(T, N)``, which class of all a way is; only some methods ask.
            mode: ``loss``: losses and logs; ``predict``: one element a task; ``tensor``: logits of the queries after
                adaptation, ``(T, N * q, N)``.
        """
        episode = dict(
            support=support,
            support_labels=support_labels,
            query=query,
            query_labels=query_labels,
            seed=torch.as_tensor(seed, device='cpu'),  # once, and not for each task and attack
        )
        if classes is not None:
            episode['classes'] = classes
        if mode == 'loss':
            return self.loss(episode)
        if mode == 'predict':
            return self.predict(episode)
        if mode == 'tensor':
            parts = [self.learner.run(self.adapt_for_test(part), part['query']) for part in self._chunks(episode)]
            return torch.cat(parts).detach()
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}")

    def _chunks(self, episode: Episode, one: bool = False) -> Iterator[Episode]:
        device = episode['support'].device
        loop = one or self.learner.engine_on(device) == 'loop'
        size = 1 if loop else self.chunk_size or len(episode['support'])
        for start in range(0, len(episode['support']), size):
            yield {name: value[start : start + size] for name, value in episode.items()}

    def _expand(self, roots: Weights, tasks: int) -> Weights:
        return {name: root.expand(tasks, *root.shape) for name, root in roots.items()}

    def loss(self, episode: Episode) -> dict[str, Tensor]:
        """Return ``loss_meta``, whose gradient is the mean meta-gradient of the tasks, and what is logged."""
        roots = self.learner.weights()
        tasks = len(episode['support'])
        grads = [torch.zeros_like(root) for root in roots.values()]
        logs: list[dict[str, Tensor]] = []
        with torch.enable_grad():
            for part in self._chunks(episode):
                out = self.objective(self._expand(roots, len(part['support'])), part)
                total = out['total'].sum() / tasks
                found = torch.autograd.grad(total, list(roots.values()), allow_unused=True)
                for grad, new in zip(grads, found, strict=True):
                    if new is not None:
                        grad.add_(new)
                logs.append({name: value.detach() for name, value in out.items()})
        means = {name: torch.cat([log[name] for log in logs]).mean() for name in logs[0]}
        own = dict(self.learner.classifier.named_parameters())
        total = CarryGradient.apply(means.pop('total'), tuple(grads), *(own[name] for name in roots))
        return {'loss_meta': total, **means}

    def attacked(self, attack: Any, weights: Weights, images: Tensor, labels: Tensor, episode: Episode) -> Tensor:
        """Return attacked images ``(T, n, C, H, W)`` of adapted weights ``(T, P)``; ``episode`` has the seeds."""
        fixed = {name: weight.detach() for name, weight in weights.items()}
        return attack(lambda x: self.learner.run(fixed, x), images, labels, episode['seed'])

    def predict(self, episode: Episode) -> list[BaseDataElement]:
        """Adapt and predict the queries, clean and under each attack.

        Returns:
            For each task an element with ``labels``, ``clean`` and one field for each name in ``test_attacks``: the
            predicted classes ``(N * q,)``. With ``with_features`` also ``clean_features (N * q, F)`` and ``noise``,
            what the first attack adds to them.
        """
        one = any(getattr(attack, 'one_task', False) for attack in self.test_attacks.values())
        return [element for part in self._chunks(episode, one) for element in self._predict(part)]

    def _predict(self, episode: Episode) -> list[BaseDataElement]:
        query, labels = episode['query'], episode['query_labels']
        weights = self.adapt_for_test(episode)
        fields = dict(labels=labels)
        with torch.no_grad():
            logits, features = self.learner.run(weights, query, 'both')
        fields['clean'] = logits.argmax(-1)
        if self.with_features:
            fields['clean_features'] = features
        for name, attack in self.test_attacks.items():
            attacked = self.attacked(attack, weights, query, labels, episode)
            with torch.no_grad():
                logits, attacked_features = self.learner.run(weights, attacked, 'both')
            fields[name] = logits.argmax(-1)
            if self.with_features and 'noise' not in fields:
                fields['noise'] = attacked_features - features
        return [
            element_of({name: values[task] for name, values in fields.items()}, list(self.test_attacks))
            for task in range(len(query))
        ]

    def init_weights(self) -> None:
        """Initialize the network, and say in the log what is trained."""
        super().init_weights()
        MMLogger.get_current_instance().info(f'{type(self).__name__}: {self.describe()}')


def element_of(fields: dict[str, Tensor], attacks: Sequence[str]) -> BaseDataElement:
    """Return an element with the fields of one task; it keeps the order of the attacks, which fields do not."""
    element = BaseDataElement(metainfo=dict(attacks=tuple(attacks)))
    for name, value in fields.items():
        element.set_field(value, name)
    return element
