"""Explicit N x N computations that the layers are compared with."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope='session')
def pearson() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Return a function that gives tokens ``(B, h, N, d)``, their ``P`` and the matrix ``S (B, h, N, N)``."""

    def pearson(x: Tensor, num_heads: int, eps: float = 1e-6) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels = x.shape[:2]
        tokens = x.reshape(batch, num_heads, channels // num_heads, -1).permute(0, 1, 3, 2)
        centered = tokens - tokens.mean(-1, keepdim=True)
        p = centered / (centered.pow(2).sum(-1, keepdim=True) + eps).sqrt()
        return tokens, p, torch.einsum('bhid,bhjd->bhij', p, p)

    return pearson
