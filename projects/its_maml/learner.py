"""Adaptation of many tasks, and the gradient through it.

Shapes: ``T`` tasks, ``n`` images of a task, ``C, H, W`` an image, ``N`` ways, ``F`` features, ``P`` a weight's own
    shape.

A weight of all tasks is ``(T, P)``. The loop over tasks is the same code with ``T = 1``. ``vmap`` maps the forward pass
alone: the tasks are independent, so ordinary autograd on the sum of their losses gives the gradient of each, to any
    order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

Weights = dict[str, Tensor]
ENGINES = ('auto', 'loop', 'vmap', 'vmap_matmul')


def adapt(
    loss_fn: Callable[[Weights], Tensor], weights: Weights, lr: float, steps: int, first_order: bool = False
) -> Weights:
    """Inner loop: ``steps`` of gradient descent on the loss of each task (MAML, Finn et al. 2017, algorithm 2).

    Args:
        loss_fn: Weights to the losses of the tasks, ``(T,)``.
        weights: Start, ``(T, P)`` each.
        lr: ``α``.
        steps: ``n``; 0 returns ``weights``.
        first_order: Take inner gradients as constants: all Jacobians are the identity.

    Returns:
        The weights after the last step. Gradients flow to ``weights`` through all steps. A weight that the loss does
        not use stays.
    """
    for _ in range(steps):
        loss = loss_fn(weights).sum()
        grads = torch.autograd.grad(loss, list(weights.values()), create_graph=not first_order, allow_unused=True)
        pairs = zip(weights.items(), grads, strict=True)
        weights = {name: weight if grad is None else weight - lr * grad for (name, weight), grad in pairs}
    return weights


def task_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each task: logits ``(T, n, N)`` and labels ``(T, n)`` to ``(T,)``."""
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction='none')
    return losses.view(labels.shape).mean(-1)


class Learner(BaseModule):
    """A classifier of mmpretrain whose weights are given from outside.

    Args:
        classifier: ``ImageClassifier`` with a head. Mean, std and ``to_rgb`` of its ``data_preprocessor``, in the 0-255
            of the host, are applied inside: images here are in [0, 1], where attacks are bounded.
        engine: ``loop``: tasks one after another; ``vmap``: all in one forward pass; ``vmap_matmul``: with convolutions
            as products with patches; ``auto``: ``loop`` on a CPU, where it is the fastest, else ``vmap``.
    """

    def __init__(self, classifier: nn.Module, engine: str = 'auto') -> None:
        super().__init__()
        if engine not in ENGINES:
            raise ValueError(f'engine must be one of {ENGINES}, got {engine!r}')
        if getattr(classifier, 'head', None) is None:
            raise ValueError('the network has no head: a few-shot learner needs logits for its ways')
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

    def forward(self, images: Tensor, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits ``(n, N)`` of images ``(n, C, H, W)`` in [0, 1]; with the head's input ``(n, F)`` if wanted."""
        features = self.classifier.extract_feat(self._normalize(images))
        logits = self.classifier.head(features)
        if not with_features:
            return logits
        return logits, self.classifier.head.pre_logits(features).flatten(1)

    def _normalize(self, images: Tensor) -> Tensor:
        host = self.classifier.data_preprocessor
        if getattr(host, 'to_rgb', False) and images.shape[1] == 3:
            images = images.flip(1)
        return (images * 255 - host.mean) / host.std if getattr(host, '_enable_normalize', False) else images

    def run(self, weights: Weights, images: Tensor, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Forward pass with given weights.

        Args:
            weights: ``(T, P)``.
            images: ``(T, n, C, H, W)``.
            with_features: Return the input of the head as well.

        Returns:
            Logits ``(T, n, N)``; features ``(T, n, F)``.
        """

        def one(own: Weights, x: Tensor) -> Any:
            named = {f'classifier.{name}': weight for name, weight in own.items()}
            return functional_call(self, named, (x, with_features))

        engine = self.engine_on(images.device)
        if engine == 'loop':
            outs = [one({name: w[task] for name, w in weights.items()}, x) for task, x in enumerate(images)]
            return tuple(map(torch.stack, zip(*outs, strict=True))) if with_features else torch.stack(outs)
        # Dropout of a network draws for each task.
        all_tasks = vmap(one, randomness='different')
        with MatmulConvolution() if engine == 'vmap_matmul' else nullcontext():
            return all_tasks(weights, images)


class MatmulConvolution(TorchFunctionMode):
    """Within this context a plain ``conv2d`` is a product with patches.

    ``vmap`` makes a grouped convolution of weights that differ by task, but a batched matrix product of this.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace convolutions of one group with padding in numbers."""
        if func is torch.conv2d:
            found = matmul_convolution(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def matmul_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Convolve ``(n, C, H, W)`` with ``(O, C, k, k)`` by unfolding; None if torch shall do it."""
    if groups != 1 or isinstance(padding, str) or input.ndim != 4:
        return None
    stride, padding, dilation = ((v, v) if isinstance(v, int) else tuple(v) for v in (stride, padding, dilation))
    size = [
        (input.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    patches = F.unfold(input, weight.shape[2:], dilation, padding, stride)  # (n, C * k * k, H' * W')
    out = (weight.flatten(1) @ patches).unflatten(-1, size)
    return out if bias is None else out + bias[:, None, None]


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
