"""Adaptation of many tasks, and the gradient through it.

Shapes: ``T`` tasks, ``n`` images of a task, ``C, H, W`` an image, ``N`` ways, ``F`` features, ``P`` a weight's own
    shape.

A weight of all tasks is ``(T, P)``. The loop over tasks is the same code with ``T = 1``. ``vmap`` maps the forward pass
alone: the tasks are independent, so ordinary autograd on the sum of their losses gives the gradient of each, to any
    order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.models import ClsHead, CrossEntropyLoss, DeiTClsHead
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import get_device_states, set_device_states

Weights = dict[str, Tensor]
ENGINES = ('auto', 'loop', 'vmap')


def adapt(
    loss_fn: Callable[[Weights], Tensor],
    weights: Weights,
    lr: float,
    steps: int,
    first_order: bool = False,
    checkpoint: bool = False,
) -> Weights:
    """Inner loop: ``steps`` of gradient descent on the loss of each task (MAML, Finn et al. 2017, algorithm 2).

    Args:
        loss_fn: Weights to the losses of the tasks, ``(T,)``.
        weights: Start, ``(T, P)`` each.
        lr: ``α``.
        steps: ``n``; 0 returns ``weights``.
        first_order: Take inner gradients as constants: all Jacobians are the identity.
        checkpoint: Keep the weights before each step and not its graph; the backward pass does each step again.
            ``loss_fn`` must then depend on nothing else that needs a gradient.

    Returns:
        The weights after the last step. Gradients flow to ``weights`` through all steps. A weight that the loss does
        not use stays.
    """

    def step(weights: Weights, create_graph: bool) -> Weights:
        # Fused attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            loss = loss_fn(weights).sum()
        grads = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph, allow_unused=True)
        pairs = zip(weights.items(), grads, strict=True)
        return {name: weight if grad is None else weight - lr * grad for (name, weight), grad in pairs}

    for _ in range(steps):
        if checkpoint and not first_order:
            weights = dict(zip(weights, CheckpointedStep.apply(step, tuple(weights), *weights.values()), strict=True))
        else:
            weights = step(weights, create_graph=not first_order)
    return weights


class CheckpointedStep(torch.autograd.Function):
    """An inner step that keeps the weights it starts from, ``(T, P)`` each, and is done again in the backward pass.

    Not ``torch.utils.checkpoint``: with the gradient that a step takes inside, its variant without reentry runs each
    step once more in the forward pass, and its reentrant one refuses ``torch.autograd.grad``.
    """

    @staticmethod
    def forward(ctx: Any, step: Callable, names: tuple[str, ...], *weights: Tensor) -> tuple[Tensor, ...]:
        """Return the weights after ``step(weights, create_graph=False)``."""
        ctx.step, ctx.names = step, names
        ctx.random, ctx.devices = torch.get_rng_state(), get_device_states(*weights)
        kind = weights[0].device.type
        ctx.autocast = dict(
            device_type=kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind)
        )
        ctx.save_for_backward(*weights)
        return tuple(weight.detach() for weight in CheckpointedStep._redo(ctx, False, weights)[1])

    @staticmethod
    def _redo(ctx: Any, create_graph: bool, weights: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        with torch.enable_grad():
            start = {name: weight.detach().requires_grad_() for name, weight in zip(ctx.names, weights, strict=True)}
            return list(start.values()), list(ctx.step(start, create_graph).values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        """Send the gradients of the weights after the step to those before it."""
        devices, states = ctx.devices
        # Dropout draws what it drew. The thread of a GPU's backward pass has autocast's default type.
        with torch.random.fork_rng(devices), torch.autocast(**ctx.autocast):
            torch.set_rng_state(ctx.random)
            set_device_states(devices, states)
            start, end = CheckpointedStep._redo(ctx, True, ctx.saved_tensors)
        return None, None, *torch.autograd.grad(end, start, grads, allow_unused=True)


def task_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each task: logits ``(T, n, N)`` and labels ``(T, n)`` to ``(T,)``."""
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction='none')
    return losses.view(labels.shape).mean(-1)


class Learner(BaseModule):
    """A classifier of mmpretrain whose weights are given from outside.

    Args:
        classifier: ``ImageClassifier`` with a head. Mean, std and ``to_rgb`` of its ``data_preprocessor``, in the 0-255
            of the host, are applied inside: images here are in [0, 1], where attacks are bounded.
        engine: ``loop``: tasks one after another; ``vmap``: all in one forward pass; ``auto``: ``loop`` on a CPU, where
            it is the fastest, else ``vmap``.

    Raises:
        ValueError: No head, or one with two features for an image (DeiT); an unknown engine; or settings of the
            classifier that episodes would ignore: a loss of its head that is not plain cross-entropy, or batch
            augmentations.
    """

    def __init__(self, classifier: nn.Module, engine: str = 'auto') -> None:
        super().__init__()
        if engine not in ENGINES:
            raise ValueError(f'engine must be one of {ENGINES}, got {engine!r}')
        if getattr(classifier, 'head', None) is None:
            raise ValueError('the network has no head: a few-shot learner needs logits for its ways')
        if isinstance(classifier.head, DeiTClsHead):
            raise ValueError(
                'DeiTClsHead has two features for an image, of its class token and its distillation token, a few-shot '
                'learner one: take VisionTransformer with VisionTransformerClsHead'
            )
        refuse_ignored(classifier)
        self.classifier = classifier
        self.engine = engine

    def engine_on(self, device: torch.device) -> str:
        """Return the engine that ``auto`` means on a device."""
        if self.engine != 'auto':
            return self.engine
        return 'loop' if device.type == 'cpu' else 'vmap'

    def weights(self) -> Weights:
        """Return the meta-parameters by name, cut off from the graph, as roots of a new one."""
        named = self.classifier.named_parameters()
        return {name: weight.detach().requires_grad_() for name, weight in named if weight.requires_grad}

    def forward(self, inputs: Tensor, part: str = 'logits') -> Tensor | tuple[Tensor, Tensor]:
        """Run the network or a part of it on one task.

        Args:
            inputs: Images ``(n, C, H, W)`` in [0, 1]; for ``head`` its input ``(n, F)``.
            part: ``logits``; ``features``, the input of the head; ``both``; ``head``, from features to logits.

        Returns:
            Logits ``(n, N)``, features ``(n, F)``, or logits and features.
        """
        head = self.classifier.head
        if part == 'head':
            return head((inputs,))
        outputs = self.classifier.extract_feat(self._normalize(inputs))
        if part == 'logits':
            return head(outputs)
        features = head.pre_logits(outputs).flatten(1)
        return features if part == 'features' else (head(outputs), features)

    def _normalize(self, images: Tensor) -> Tensor:
        host = self.classifier.data_preprocessor
        if getattr(host, 'to_rgb', False) and images.shape[1] == 3:
            images = images.flip(1)
        return (images * 255 - host.mean) / host.std if getattr(host, '_enable_normalize', False) else images

    def run(self, weights: Weights, inputs: Tensor, part: str = 'logits') -> Tensor | tuple[Tensor, Tensor]:
        """Do what ``forward`` does for each task with its own weights.

        Args:
            weights: ``(T, P)``.
            inputs: ``(T, n, C, H, W)``, or ``(T, n, F)`` for the head.
            part: As in ``forward``.

        Returns:
            What ``forward`` returns with ``T`` in front.
        """

        def one(own: Weights, x: Tensor) -> Any:
            named = {f'classifier.{name}': weight for name, weight in own.items()}
            return functional_call(self, named, (x, part))

        if self.engine_on(inputs.device) == 'loop':
            outs = [one({name: w[task] for name, w in weights.items()}, x) for task, x in enumerate(inputs)]
            return tuple(map(torch.stack, zip(*outs, strict=True))) if part == 'both' else torch.stack(outs)
        # Dropout of a network draws for each task.
        return vmap(one, randomness='different')(weights, inputs)


def refuse_ignored(classifier: nn.Module) -> None:
    """Raise a ValueError if a classifier has settings of training that episodes would ignore."""
    head, loss = classifier.head, getattr(classifier.head, 'loss_module', None)
    own = isinstance(head, ClsHead) and type(head).loss is not ClsHead.loss
    plain = loss is None or (
        type(loss) is CrossEntropyLoss
        and not loss.use_sigmoid
        and not loss.use_soft
        and loss.class_weight is None
        and loss.loss_weight == 1
    )
    if own or not plain:
        name = f'{type(head).__name__}.loss' if own else repr(loss)
        raise ValueError(
            f'the head computes {name}, which episodes do not use: inner and outer losses are plain cross-entropy. '
            'Leave loss out of the head, or take a LinearClsHead'
        )
    if getattr(classifier.data_preprocessor, 'batch_augments', None) is not None:
        raise ValueError(
            'train_cfg=dict(augments=...) of the network (Mixup, CutMix) would mix images of an episode whose labels '
            'stay as they are: leave it out'
        )


class CarryGradient(torch.autograd.Function):
    """A loss whose gradient is already known: the value goes forward, the given gradients go back to the weights.

    With it the graph of a task can be freed before that of the next is built, while optimizer wrappers, gradient
    scalers and DDP see an ordinary loss.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: tuple[Tensor, ...], *weights: Tensor) -> Tensor:
        """Return a copy of the scalar ``value``; ``grads`` are as many and as large as ``weights``."""
        ctx.grads = grads
        return value.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """Scale the known gradients."""
        return None, None, *(known * grad for known in ctx.grads)
