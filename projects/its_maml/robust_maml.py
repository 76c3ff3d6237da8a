"""Robust MAML and its variants as one model of mmengine.

Shapes: ``T`` tasks of a batch, ``N`` ways, ``K`` shots, ``q`` queries of a class, ``C, H, W`` an image, ``F`` features,
``P`` a weight's own shape.

ITS-MAML: Duan et al., "Rethinking the Number of Shots in Robust Model-Agnostic Meta-Learning", arXiv:2211.15180 (2022).
It is R-MAML (Wang et al., ICLR 2021) meta-trained with more shots than meta-test has; the shots are those of the data,
so this file is R-MAML's objective: attacks on the queries alone, after the last inner step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmpretrain.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from .attacks import task_kl
from .backbones import use_batch_statistics
from .learner import CarryGradient, Learner, Weights, adapt, task_cross_entropy

Episode = dict[str, Tensor]


@MODELS.register_module()
class RobustMAML(BaseModel):
    """MAML with an adversarial term in the outer loss.

    ``L = clean_weight * CE(θ_n; Q) + reg_weight * R(θ_n; Q)``, where ``θ_n`` are the weights after ``n`` steps on the
    clean support. ``R`` is the cross-entropy of attacked queries (``reg='ce'``) or the divergence from the clean
    prediction (``'trades'``). The attack is a constant for the outer gradient.

    | variant | arguments |
    |---|---|
    | MAML | ``reg_weight=0`` |
    | R-MAML | ``attack=dict(type='LinfAttack', eps=...)``, one step |
    | ITS-MAML | R-MAML, and ``shots`` of the training data above those of the test data |
    | R-MAML (TRADES) | ``reg='trades'``, ``attack=dict(..., objective='kl')`` |
    | AQ | ``clean_weight=0``, ``attack=dict(..., steps=7, step_size=2/255)`` |
    | ADML | ``support_attack=dict(...)``, ``crossed=True`` |

    Inputs of an episode are those of ``EpisodicDataset``, stacked: ``support (T, N * K, C, H, W)`` in [0, 1] and so on.

    Args:
        network: Config of an ``ImageClassifier`` of mmpretrain, with a head of ``N`` classes; mean and std in its
            ``data_preprocessor``.
        inner_lr: ``α`` of the inner loop; 0.01 in R-MAML's code.
        train_steps, test_steps: Inner steps ``n`` in meta-training and meta-test; 5 and 10 in R-MAML's code.
        first_order: Inner gradients are constants. R-MAML's code is first-order, its text is not; default: not.
        attack: Config of the attack on the queries in meta-training.
        reg: ``ce`` or ``trades``. Not in what we could read of the paper: which; ours is ``ce``.
        reg_weight: ``λ``; 1 for ITS-MAML (from public reviews). 0 leaves the attack out.
        clean_weight: Of the clean loss.
        support_attack: Config of an attack on the support at the meta-parameters, before the first inner step.
        crossed: ADML: one copy adapts to the clean support and sees attacked queries, one adapts to the attacked
            support and sees clean queries. Not in the paper: which copy attacks the queries; ours: the one that sees
            them.
        test_attacks: Configs of the attacks in validation and test, by name.
        norm: ``task_batch`` (R-MAML's code, transductive) or ``instance``; see ``use_batch_statistics``.
        engine: ``auto``, ``loop`` or ``vmap``; see ``Learner``.
        chunk_size: Tasks that are in memory at once with ``vmap``; default all. The loop has one.
        checkpoint_steps: In second order keep the weights before each inner step, not its graph, and do the step again
            in the backward pass: less memory, more time.
        with_features: Add features of clean and attacked queries to predictions, for their dimension.

    Raises:
        ValueError: Arguments that contradict each other.
    """

    base = 'MAML'  # what it is without attacks

    def __init__(
        self,
        network: dict,
        inner_lr: float = 0.01,
        train_steps: int = 5,
        test_steps: int = 10,
        first_order: bool = False,
        attack: dict | None = None,
        reg: str = 'ce',
        reg_weight: float = 1.0,
        clean_weight: float = 1.0,
        support_attack: dict | None = None,
        crossed: bool = False,
        test_attacks: dict[str, dict] | None = None,
        norm: str = 'task_batch',
        engine: str = 'auto',
        chunk_size: int | None = None,
        checkpoint_steps: bool = False,
        with_features: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if reg not in ('ce', 'trades'):
            raise ValueError(f"reg must be 'ce' or 'trades', got {reg!r}")
        if reg_weight > 0 and attack is None:
            raise ValueError(f"reg_weight={reg_weight} needs an attack=dict(type='LinfAttack', eps=...)")
        if min(reg_weight, clean_weight) < 0 or reg_weight + clean_weight == 0:
            raise ValueError(f'weights of the losses: clean {clean_weight}, adversarial {reg_weight}')
        if crossed and (support_attack is None or reg != 'ce' or not reg_weight * clean_weight):
            raise ValueError("crossed=True (ADML) needs a support_attack, reg='ce' and both losses")
        if min(train_steps, test_steps) < 0 or chunk_size is not None and chunk_size < 1:
            raise ValueError(f'train_steps={train_steps}, test_steps={test_steps}, chunk_size={chunk_size}')
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
        self.inner_lr, self.first_order = inner_lr, first_order
        self.train_steps, self.test_steps = train_steps, test_steps
        self.reg, self.reg_weight, self.clean_weight, self.crossed = reg, reg_weight, clean_weight, crossed
        self.attack = attack and TASK_UTILS.build(attack)
        self.support_attack = support_attack and TASK_UTILS.build(support_attack)
        self.test_attacks = {name: TASK_UTILS.build(cfg) for name, cfg in (test_attacks or {}).items()}
        self.chunk_size, self.with_features = chunk_size, with_features
        self.checkpoint_steps = checkpoint_steps

    def describe_adaptation(self) -> str:
        """Return how a task learns."""
        order = 'first' if self.first_order else 'second'
        return (
            f'{order}-order, inner lr {self.inner_lr:g}, {self.train_steps} steps in training and {self.test_steps} in '
            'test'
        )

    def describe(self) -> str:
        """Return in one line what is trained."""
        terms = [f'{self.clean_weight:g} * clean'] if self.clean_weight else []
        terms += [f'{self.reg_weight:g} * {self.reg} under {self.attack}'] if self.reg_weight else []
        crossed = ', crossed' if self.crossed else ''
        norm = 'transductive, batch norms see all queries' if self.transductive else 'each query alone'
        return (
            f'{self.describe_adaptation()}; outer loss {" + ".join(terms)}{crossed}; {norm}; '
            f'engine {self.learner.engine}'
        )

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

    def objective(self, weights: Weights, episode: Episode) -> dict[str, Tensor]:
        """Outer loss of each task as a function of the meta-parameters.

        Args:
            weights: ``(T, P)`` each: the meta-parameters, once for each task.
            episode: As in ``forward``.

        Returns:
            ``total``, ``clean_ce``, ``adv_ce`` or ``adv_kl``, ``clean_accuracy`` and ``adv_accuracy`` in percent, each
            ``(T,)``; the adversarial ones if ``reg_weight`` is above 0.
        """
        query, labels = episode['query'], episode['query_labels']
        support, attacked_support = episode['support'], None
        if self.support_attack is not None:
            attacked_support = self.attacked(self.support_attack, weights, support, episode['support_labels'], episode)
        if self.crossed:
            for_clean = self._adapt(weights, attacked_support, episode)
            for_attacked = self._adapt(weights, support, episode)
        else:
            support = support if attacked_support is None else attacked_support
            for_clean = for_attacked = self._adapt(weights, support, episode)

        out: dict[str, Tensor] = {}
        total = query.new_zeros(len(query))
        logits = None
        if self.clean_weight or self.reg == 'trades':
            logits = self.learner.run(for_clean, query)
            out.update(clean_ce=task_cross_entropy(logits, labels), clean_accuracy=accuracy(logits, labels))
            total = total + self.clean_weight * out['clean_ce']
        if self.reg_weight:
            attacked = self.attacked(self.attack, for_attacked, query, labels, episode)
            adv_logits = self.learner.run(for_attacked, attacked)
            name = 'adv_kl' if self.reg == 'trades' else 'adv_ce'
            ce = self.reg == 'ce'
            out[name] = task_cross_entropy(adv_logits, labels) if ce else task_kl(logits, adv_logits)
            out['adv_accuracy'] = accuracy(adv_logits, labels)
            total = total + self.reg_weight * out[name]
        return dict(total=total, **out)

    def fast_weights(self, weights: Weights, support: Tensor, labels: Tensor, steps: int, first_order: bool) -> Weights:
        """Let each task learn from its support; other learners override this.

        Args:
            weights: ``(T, P)`` each: the meta-parameters.
            support: ``(T, N * K, C, H, W)``.
            labels: ``(T, N * K)``.
            steps: Of the inner loop.
            first_order: Whether the outer gradient takes the inner ones as constants.

        Returns:
            The weights that predict the queries, ``(T, P)``.
        """

        def loss_fn(current: Weights) -> Tensor:
            return task_cross_entropy(self.learner.run(current, support), labels)

        return adapt(loss_fn, weights, self.inner_lr, steps, first_order, self.checkpoint_steps)

    def _adapt(self, weights: Weights, support: Tensor, episode: Episode) -> Weights:
        return self.fast_weights(weights, support, episode['support_labels'], self.train_steps, self.first_order)

    def adapt_for_test(self, episode: Episode) -> Weights:
        """Adapt to the support in meta-test; the meta-parameters do not change."""
        with torch.enable_grad():  # the loops of mmengine evaluate under no_grad
            weights = self._expand(self.learner.weights(), len(episode['support']))
            weights = self.fast_weights(weights, episode['support'], episode['support_labels'], self.test_steps, True)
        return {name: weight.detach() for name, weight in weights.items()}

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


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Accuracy in percent of each task: logits ``(T, n, N)`` and labels ``(T, n)`` to ``(T,)``."""
    return (logits.argmax(-1) == labels).float().mean(-1) * 100


def element_of(fields: dict[str, Tensor], attacks: Sequence[str]) -> BaseDataElement:
    """Return an element with the fields of one task; it keeps the order of the attacks, which fields do not."""
    element = BaseDataElement(metainfo=dict(attacks=tuple(attacks)))
    for name, value in fields.items():
        element.set_field(value, name)
    return element
