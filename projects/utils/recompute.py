"""Activation checkpointing that leaves the statistics of batch norms right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch.utils.checkpoint as cp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms normalize by the batch as before, and leave their running statistics alone."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def recompute(module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``function(x)``, whose activations are computed again in the backward pass and not kept.

    ``torch.utils.checkpoint`` alone moves running means and variances twice a step, once in each pass.

    Args:
        module: Whose batch norms ``function`` uses.
        function: From a tensor to a tensor.
        x: Its input.
    """
    return cp.checkpoint(
        function, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), frozen_statistics(module))
    )
