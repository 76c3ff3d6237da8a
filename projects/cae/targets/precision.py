"""Targets whose weights stay in single precision."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class SinglePrecision:
    """Put it before a module: it moves between devices, but a cast of the model around it leaves its weights alone.

    In half precision near tokens would be mixed up.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)
