"""Linear layers on a CPU through oneDNN.

torch multiplies float32 matrices by MKL, which keeps its AVX-512 code to Intel's processors. oneDNN, which torch also
carries, asks the processor what it can do: on an AMD EPYC it is twice as fast. Intel's were not measured. Not in any
paper: our decision, because training on a CPU is nearly all products.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.overrides import TorchFunctionMode

# Measured on an AMD EPYC, forward and backward: below either, copies into oneDNN's format and back can cost more than
# they save.
MIN_ROWS, MIN_CHANNELS = 128, 96


class _Linear(torch.autograd.Function):
    """``F.linear`` that keeps its input once; torch's own gradient of ``to_mkldnn`` and ``to_dense`` keeps copies."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.ops.aten.mkldnn_linear(x.to_mkldnn(), weight, bias).to_dense()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        backward = torch.ops.aten.mkldnn_linear_backward
        grads = backward(x.to_mkldnn(), grad.to_mkldnn(), weight, ctx.needs_input_grad)
        return tuple(g.to_dense() if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=True))


class OneDNNLinear(TorchFunctionMode):
    """Send large float32 products of ``F.linear`` on a CPU through oneDNN. There are no second derivatives of these."""

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        """Call ``func``, or oneDNN in its place."""
        kwargs = kwargs or {}
        return _linear(*args, **kwargs) if func is F.linear else func(*args, **kwargs)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, whose arguments have these names."""
    is_float32 = input.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')
    is_large = min(weight.shape) >= MIN_CHANNELS and input.numel() >= MIN_ROWS * input.shape[-1]
    if is_float32 and is_large and input.device.type == 'cpu':
        return _Linear.apply(input, weight, bias)
    return F.linear(input, weight, bias)


def is_captured() -> bool:
    """Whether a graph is made of the calls, for other sizes and maybe other devices, by ``torch.jit`` or a compiler."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def onednn_linear(x: Tensor) -> AbstractContextManager:
    """Return the context in which a module computes what it makes of ``x``.

    It does nothing on a GPU, where torch has no oneDNN, and in a captured graph, which is to stay portable.
    """
    if is_captured() or x.device.type != 'cpu' or not torch.backends.mkldnn.is_available():
        return nullcontext()
    return OneDNNLinear()
