"""Matrix products of a training run on a CPU through oneDNN, where that is faster.

torch gives float32 products to MKL, which keeps its AVX-512 code to Intel's processors, and 1x1 convolutions of few
images to it as well. oneDNN, which torch also carries, asks the processor what it can do: on an AMD EPYC a training
step of a ViT took about half the time with it, on an Intel Xeon 13 to 17 % more. Which is faster is a matter of the
machine, so no model knows of it, and a run that wants the faster one times both: ``custom_hooks =
[dict(type='FasterCPUProductsHook')]`` with ``mmplugins.utils.cpu_products`` in ``custom_imports``, or
``MMPLUGINS_ONEDNN=1`` for ``tools/train.py``. Not in any paper: our decision, because training on a CPU is nearly all
products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from statistics import median
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

LINEAR, CONV2D = F.linear, F.conv2d
# Rows and channels of a linear layer. Below either, copies into oneDNN's format and back can cost more than they save
# (forward and backward on an AMD EPYC).
MIN_ROWS, MIN_CHANNELS = 128, 96
# Values of a map. For one image with no more than these torch has only a slow dilated convolution of its own.
SMALL_MAP = 20480
# Training steps of a round; neither way always comes second, where gradients of two steps are accumulated. The first of
# the rounds warms up, the others are timed.
ROUND, ROUNDS = ('torch', 'oneDNN', 'oneDNN', 'torch'), 4


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


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is computed on a CPU in single precision, and now, not captured for elsewhere."""
    is_cpu = x.device.type == weight.device.type == 'cpu' and not torch.compiler.is_compiling()
    return is_cpu and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, whose arguments have these names."""
    is_large = weight.dim() == 2 and min(weight.shape) >= MIN_CHANNELS and input.numel() >= MIN_ROWS * weight.shape[1]
    if is_large and _suits(input, weight):
        return _Linear.apply(input, weight, bias)
    return LINEAR(input, weight, bias)


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """``F.conv2d``. torch gives every dilated kernel to oneDNN, and dilation changes nothing in one of 1x1."""
    if weight.shape[2:] == (1, 1) and groups == 1 and input.numel() > SMALL_MAP and _suits(input, weight):
        dilation = 2
    return CONV2D(input, weight, bias, stride, padding, dilation, groups)


@contextmanager
def onednn_products() -> Iterator[None]:
    """Send large float32 products of ``F.linear`` and 1x1 ``F.conv2d`` on a CPU through oneDNN inside the block.

    The two functions are replaced. A mode of torch would not do: torch leaves it in the backward pass, where blocks
    under activation checkpointing are computed again and must be as before. What a compiler captures is left alone.
    Second derivatives of linear layers are not supported: an error.
    """
    before = F.linear, F.conv2d
    F.linear, F.conv2d = _linear, _conv2d
    try:
        yield
    finally:
        F.linear, F.conv2d = before


@HOOKS.register_module()
class FasterCPUProductsHook(Hook):
    """Compute the float32 products of training on a CPU by torch's default or by oneDNN, whichever takes less time.

    The run's own training steps are timed, in turns, in seconds of processor time; the lower median decides, and a line
    of the log says so. Only training steps are concerned, and nothing happens on a GPU or without oneDNN. The two ways
    round differently, so two runs of one seed may differ in the last digits. Second derivatives of linear layers are
    not supported: an error.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {way: [] for way in ROUND}
        self.choice: str | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Let the next training step be computed one way or the other.

        The step itself enters and leaves it: ``after_train_iter`` is not called after an error, and the products would
        stay replaced for whatever the process does next.
        """
        if self.choice == 'torch' or get_device() != 'cpu' or not torch.backends.mkldnn.is_available():
            return
        model, step = runner.model, runner.model.train_step
        way = self.choice or ROUND[sum(map(len, self.seconds.values())) % len(ROUND)]

        def train_step(*args, **kwargs) -> dict[str, Tensor]:
            model.train_step = step  # this was for one step only
            start = process_time()
            with onednn_products() if way == 'oneDNN' else nullcontext():
                outputs = step(*args, **kwargs)
            if not self.choice:
                self.seconds[way].append(process_time() - start)
            return outputs

        model.train_step = train_step

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Choose, once enough steps are timed."""
        if self.choice or len(self.seconds[ROUND[-1]]) < 2 * ROUNDS:
            return
        medians = {way: median(seconds[2:]) for way, seconds in self.seconds.items()}
        self.choice = min(medians, key=medians.get)
        times = ', '.join(f'{seconds:.3f} s by {way}' for way, seconds in medians.items())
        runner.logger.info(
            f'CPU products: a training step takes {times} (processor time, medians). {self.choice} computes the rest.'
        )
