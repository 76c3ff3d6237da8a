"""Attacks of other libraries for evaluation: torchattacks (AutoAttack among others) and foolbox.

Both are optional, and both want one network and images in [0, 1]. Shapes as in ``attacks.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from mmpretrain.registry import TASK_UTILS
from torch import Tensor, nn

from .attacks import LogitsFn


class TaskNetwork(nn.Module):
    """One adapted task as an ordinary network: images ``(n, C, H, W)`` in [0, 1] to logits ``(n, N)``."""

    def __init__(self, logits_fn: LogitsFn) -> None:
        super().__init__()
        self.logits_fn = logits_fn
        # The libraries look at the parameters for the device; attacks must leave the adapted weights alone.
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of one task."""
        return self.logits_fn(images[None])[0]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch and numpy, which the libraries draw from; nobody else shall notice."""
    state = np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
    finally:
        np.random.set_state(state)


class OneTaskAttack:
    """Calls an attack of another library for one task at a time."""

    one_task = True  # RobustMAML then predicts one task at a time

    def __call__(self, logits_fn: LogitsFn, images: Tensor, labels: Tensor, seeds: Sequence[int] | Tensor) -> Tensor:
        """Attack ``(1, n, C, H, W)`` images; see ``LinfAttack``."""
        if len(images) != 1:
            raise ValueError(f'{type(self).__name__} attacks one task at a time, got {len(images)}')
        network = TaskNetwork(logits_fn).to(images.device).eval()
        seed = int(seeds[0])
        with seeded(seed), torch.enable_grad():
            return self.run(network, images[0].detach(), labels[0], seed)[None].detach()

    def run(self, network: TaskNetwork, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Return attacked images ``(n, C, H, W)``; ``seed`` is for attacks that set the generator themselves."""
        raise NotImplementedError


@TASK_UTILS.register_module()
class TorchAttack(OneTaskAttack):
    """An attack of torchattacks by name, on ``(n, C, H, W)`` images of one task.

    Batch norms with batch statistics couple the queries: AutoAttack, which attacks only images that are still right,
    then sees other statistics than the final evaluation. Its number is that of its images in the whole batch.

    Args:
        name: Class of torchattacks, such as ``AutoAttack`` or ``PGD``.
        **kwargs: Of the class, such as ``eps=8/255``. Of those that have them, ``n_classes`` is the task's ``N`` and
            ``seed`` the episode's unless given: without one AutoAttack takes the time.

    Raises:
        ImportError: torchattacks is missing.
        ValueError: It has no attack of this name, the attack takes no such arguments, or it asks for more than a
            network (``MultiAttack``: other attacks; ``LGV``: training data).
    """

    def __init__(self, name: str = 'AutoAttack', **kwargs) -> None:
        try:
            import torchattacks
        except ImportError as error:
            raise ImportError(
                'TorchAttack needs torchattacks; it pins an old requests, so install it without its requirements: '
                'pip install --no-deps torchattacks==3.5.1'
            ) from error
        if not hasattr(torchattacks, name):
            raise ValueError(f'torchattacks {torchattacks.__version__} has no attack {name!r}')
        self.attack, self.kwargs = getattr(torchattacks, name), kwargs
        model, *takes = inspect.signature(self.attack).parameters.values()
        unknown = sorted(set(kwargs) - {each.name for each in takes})
        lacking = [each.name for each in takes if each.default is each.empty and each.name not in kwargs]
        if unknown or lacking or model.name != 'model':
            raise ValueError(
                f'torchattacks.{name} is made of {inspect.signature(self.attack)}: it '
                + (f'takes no {unknown[0]}' if unknown else 'needs more than the network of a task and numbers')
            )

    def run(self, network: TaskNetwork, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Return attacked images ``(n, C, H, W)``."""
        takes, own = inspect.signature(self.attack).parameters, dict(self.kwargs)
        if 'seed' in takes:
            own.setdefault('seed', seed)
        if 'n_classes' in takes:
            with torch.no_grad():
                own['n_classes'] = network(images).shape[1]
        return self.attack(network, **own)(images, labels)


@TASK_UTILS.register_module()
class FoolboxAttack(OneTaskAttack):
    """An attack of foolbox by name, on ``(n, C, H, W)`` images of one task.

    Args:
        name: Class of ``foolbox.attacks``, such as ``LinfPGD``.
        eps: Largest change of a pixel.
        **kwargs: Of the class.

    Raises:
        ImportError: foolbox is missing.
        ValueError: It has no attack of this name.
    """

    def __init__(self, name: str = 'LinfPGD', eps: float = 8 / 255, **kwargs) -> None:
        try:
            import foolbox
        except ImportError as error:
            raise ImportError('FoolboxAttack needs foolbox: pip install foolbox==3.3.4') from error
        if not hasattr(foolbox.attacks, name):
            raise ValueError(f'foolbox.attacks has no attack {name!r}')
        # Not the module: hooks copy models, and a module cannot be copied.
        self.wrap, self.eps = foolbox.PyTorchModel, eps
        self.attack = getattr(foolbox.attacks, name)(**kwargs)

    def run(self, network: TaskNetwork, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Return attacked images ``(n, C, H, W)``."""
        model = self.wrap(network, bounds=(0, 1), device=images.device)
        _, clipped, _ = self.attack(model, images, labels, epsilons=self.eps)
        return clipped
