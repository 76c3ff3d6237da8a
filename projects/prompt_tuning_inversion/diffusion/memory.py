"""Less memory for a backward pass: a UNet that computes again what it did not keep, and a process that gives back.

Not in the paper. diffusers' own checkpointing keeps the norms and projections around the blocks of a transformer, which
at full resolution is as much as all the rest. ``B`` images, ``L`` positions of ``D`` numbers.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..extras import require
from .forwards import Forward, replaced_forwards

# The widest layer of a transformer is eight times as wide as its input; more positions than these are done in turns.
POSITIONS = 1024
_M_MMAP_THRESHOLD = -3  # of malloc.h


def recomputed(unet: nn.Module) -> AbstractContextManager[None]:
    """Within the context each residual block and transformer of a ``UNet2DConditionModel`` keeps its input alone.

    Forward and backward passes must both be in it.
    """
    resnet_type = require('diffusers.models.resnet').ResnetBlock2D
    transformer_type = require('diffusers.models.transformers.transformer_2d').Transformer2DModel
    feed_forward_type = require('diffusers.models.attention').FeedForward
    wrappers = {}
    for module in unet.modules():
        if isinstance(module, (resnet_type, transformer_type)):
            wrappers[module] = keep_input
        elif isinstance(module, feed_forward_type):
            wrappers[module] = in_turns
    return replaced_forwards(wrappers)


def keep_input(forward: Forward) -> Forward:
    """Wrap a function of tensors ``(B, ...)``: of what a gradient needs only the arguments are kept."""

    def wrapped(*args, **kwargs) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Nothing in it is random.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return wrapped


def in_turns(forward: Forward) -> Forward:
    """Wrap a function of ``(B, L, D)`` that looks at each position by itself: few positions are in memory at once."""
    some = keep_input(forward)

    def wrapped(hidden_states: Tensor, *args, **kwargs) -> Tensor:
        if hidden_states.shape[1] <= POSITIONS:
            return forward(hidden_states, *args, **kwargs)
        return torch.cat([some(part, *args, **kwargs) for part in hidden_states.split(POSITIONS, dim=1)], dim=1)

    return wrapped


def return_freed_memory(threshold: int = 1 << 20) -> bool:
    """Have the C library give freed blocks from ``threshold`` bytes on back to the system at once.

    glibc keeps them to use them again. Backward passes free activations of many sizes in another order than they were
    made, which tears its heap: with recomputed activations the heap grew to more than twice what is in use.

    Returns:
        Whether the C library can be told; only glibc has the switch.
    """
    if sys.platform != 'linux':
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, threshold))
