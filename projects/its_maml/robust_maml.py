"""Robust MAML and its variants as one model of mmengine.

Shapes as in ``episodic.py``.

ITS-MAML: Duan et al., "Rethinking the Number of Shots in Robust Model-Agnostic Meta-Learning", arXiv:2211.15180 (2022).
It is R-MAML (Wang et al., ICLR 2021) meta-trained with more shots than meta-test has; the shots are those of the data,
so this file is R-MAML's objective: attacks on the queries alone, after the last inner step.
"""

from __future__ import annotations

import torch
from mmpretrain.registry import MODELS, TASK_UTILS
from torch import Tensor

from .attacks import task_kl
from .episodic import Episode, EpisodicModel
from .learner import Weights, adapt, task_cross_entropy


@MODELS.register_module()
class RobustMAML(EpisodicModel):
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

    Args:
        network: Config of an ``ImageClassifier`` of mmpretrain; see ``EpisodicModel``.
        inner_lr: ``α`` of the inner loop; 0.01 in R-MAML's code.
        train_steps, test_steps: Inner steps ``n`` in meta-training and meta-test; 5 and 10 in R-MAML's code.
        first_order: Inner gradients are constants. R-MAML's code is first-order, its text is not; default: not.
        attack: Config of the attack on the queries in meta-training.
        reg: ``ce`` or ``trades``. Not in what we could read of the paper: which; ours is ``ce``.
        reg_weight: ``λ``; 1 for ITS-MAML (from public reviews). 0 leaves the attack out.
        clean_weight: Weight of the clean loss.
        support_attack: Config of an attack on the support at the meta-parameters, before the first inner step.
        crossed: ADML: one copy adapts to the clean support and sees attacked queries, one adapts to the attacked
            support and sees clean queries. Not in the paper: which copy attacks the queries; ours: the one that sees
            them.
        checkpoint_steps: In second order keep the weights before each inner step, not its graph, and do the step again
            in the backward pass: less memory, more time.
        **kwargs: Of ``EpisodicModel``: ``test_attacks``, ``norm``, ``engine`` and so on.

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
        checkpoint_steps: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(network, **kwargs)
        if reg not in ('ce', 'trades'):
            raise ValueError(f"reg must be 'ce' or 'trades', got {reg!r}")
        if reg_weight > 0 and attack is None:
            raise ValueError(f"reg_weight={reg_weight} needs an attack=dict(type='LinfAttack', eps=...)")
        if min(reg_weight, clean_weight) < 0 or reg_weight + clean_weight == 0:
            raise ValueError(f'weights of the losses: clean {clean_weight}, adversarial {reg_weight}')
        if crossed and (support_attack is None or reg != 'ce' or not reg_weight * clean_weight):
            raise ValueError("crossed=True (ADML) needs a support_attack, reg='ce' and both losses")
        if min(train_steps, test_steps) < 0:
            raise ValueError(f'train_steps={train_steps}, test_steps={test_steps}: a number of steps is at least 0')
        self.inner_lr, self.first_order = inner_lr, first_order
        self.train_steps, self.test_steps = train_steps, test_steps
        self.reg, self.reg_weight, self.clean_weight, self.crossed = reg, reg_weight, clean_weight, crossed
        self.attack = attack and TASK_UTILS.build(attack)
        self.support_attack = support_attack and TASK_UTILS.build(support_attack)
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

    def objective(self, weights: Weights, episode: Episode) -> dict[str, Tensor]:
        """Outer loss of each task; see ``EpisodicModel``.

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
        """Adapt to the support in meta-test; see ``EpisodicModel``."""
        with torch.enable_grad():  # the loops of mmengine evaluate under no_grad
            weights = self._expand(self.learner.weights(), len(episode['support']))
            weights = self.fast_weights(weights, episode['support'], episode['support_labels'], self.test_steps, True)
        return {name: weight.detach() for name, weight in weights.items()}


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Accuracy in percent of each task: logits ``(T, n, N)`` and labels ``(T, n)`` to ``(T,)``."""
    return (logits.argmax(-1) == labels).float().mean(-1) * 100
