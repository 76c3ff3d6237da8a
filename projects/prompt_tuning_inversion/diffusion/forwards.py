"""The one place where the ``forward`` of a part is replaced: within a context, and never for longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

Forward = Callable[..., Tensor]


@contextmanager
def replaced_forwards(wrappers: Mapping[nn.Module, Callable[[Forward], Forward]]) -> Iterator[None]:
    """Within the context each module's ``forward`` is what its wrapper makes of it; then all are as they were.

    A copy of a model that is made outside of the context knows nothing of it.
    """
    before = {module: vars(module).get('forward') for module in wrappers}  # of wrappers such as accelerate's
    try:
        for module, wrapper in wrappers.items():
            module.forward = wrapper(module.forward)
        yield
    finally:
        for module, forward in before.items():
            del module.forward
            if forward is not None:
                module.forward = forward
