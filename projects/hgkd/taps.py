"""Taps: what modules of a network give in one forward pass, by their names. Not in the paper (arXiv 2309.09571)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


class Taps:
    """Named modules of a network whose outputs are wanted.

    They have forward hooks for the time of :meth:`listen` only, so that copies and files of the network have none.

    Args:
        network: Has the modules.
        names: Of modules, as in ``named_modules``. A module that gives several tensors is asked for one of them as
            ``neck[2]`` or ``backbone[-1]``; without a number it is the first.
        owner: What the network is called in messages.

    Raises:
        ValueError: No module is called so.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], owner: str) -> None:
        self.owner = owner
        self.modules: dict[str, tuple[nn.Module, int]] = {}
        for name in names:
            path, index = re.fullmatch(r'(.*?)(?:\[(-?\d+)\])?', name).groups()
            self.modules[name] = (find_module(network, path, owner), int(index or 0))

    @contextmanager
    def listen(self, once: bool = True) -> Iterator[dict[str, Tensor]]:
        """Record what the modules give.

        Args:
            once: Whether each must run exactly once; False: the first time counts, a missing one is left out.

        Yields:
            Output of each tap; filled while the network runs.

        Raises:
            RuntimeError: A module did not run exactly once.
        """
        times = dict.fromkeys(self.modules, 0)
        found: dict[str, Tensor] = {}

        def recorder(name: str, index: int):
            def record(module: nn.Module, inputs: tuple, output: object) -> None:
                times[name] += 1
                found.setdefault(name, pick(name, output, index))

            return record

        handles = [
            module.register_forward_hook(recorder(name, index)) for name, (module, index) in self.modules.items()
        ]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()
        for name, count in times.items():
            if once and count != 1:
                raise RuntimeError(f'tap {name!r} of the {self.owner} fired {count} times in one pass, not once')


def pick(name: str, output: object, index: int) -> Tensor:
    """Return a tensor of what a module gave: itself, or one of a sequence, as a list of levels.

    Raises:
        ValueError: There is none of this number.
    """
    while isinstance(output, (tuple, list)):  # levels of a backbone; features beside attention
        if not -len(output) <= index < len(output):
            raise ValueError(f'tap {name!r} gives {len(output)} outputs, none of number {index}')
        output, index = output[index], 0
    if not isinstance(output, Tensor):
        raise ValueError(f'tap {name!r} gives a {type(output).__name__}, not a tensor; tap a module inside it')
    return output


def find_module(network: nn.Module, name: str, owner: str) -> nn.Module:
    """Return the module of a network by name.

    Raises:
        ValueError: There is none; the message names some that there are.
    """
    modules = dict(network.named_modules())
    if name not in modules or not name:
        last = name.rpartition('.')[2]
        near = [key for key in modules if key.rpartition('.')[2] == last and key] or list(modules)[1:]
        near = sorted(near, key=lambda key: key.count('.'))[:6]
        raise ValueError(f'the {owner} {type(network).__name__} has no module {name!r}; it has {near} and more')
    return modules[name]
