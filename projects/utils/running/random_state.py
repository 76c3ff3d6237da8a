"""The random numbers of a process, kept over a stop."""

from __future__ import annotations

import random

import numpy as np
import torch


def random_state() -> dict:
    """Return the state of all generators of this process, in types that ``torch.load`` reads without running code."""
    kind, keys, *rest = np.random.get_state()
    state = dict(python=random.getstate(), numpy=(kind, keys.tolist(), *rest), torch=torch.get_rng_state())
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    """Undo all draws since :func:`random_state` gave ``state``."""
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'].cpu())  # a checkpoint may be loaded to a GPU, tensors of every kind with it
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
