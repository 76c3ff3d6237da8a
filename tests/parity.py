"""A step on a device beside the same step on the CPU. Every ``test_gpu.py`` uses it, on the CPU too.

The fixture ``parity`` of ``conftest.py`` returns this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from experiments.frame.measure import Counter

HALVES = (torch.float16, torch.bfloat16)
Losses = Callable[[nn.Module, str], dict[str, Tensor]]  # of a model on a device


def step(
    model: nn.Module,
    losses: Losses,
    device: str,
    dtype: torch.dtype = torch.float32,
    compiler: str | None = None,
) -> dict[str, Tensor]:
    """Forward and backward of a copy of a model on a device.

    Args:
        model: On the CPU; it is not changed.
        losses: From the model and the device to losses, scalars by name; those with ``loss`` in the name are added up.
            It brings its inputs to the device, and draws no random numbers there.
        device: ``'cpu'`` or ``'cuda'``.
        dtype: Of autocast; ``torch.float32``: none.
        compiler: Backend of ``torch.compile``.

    Returns:
        Losses and, by the names of the parameters, gradients; on the CPU, detached.
    """
    model = deepcopy(model).to(device)
    called = torch.compile(model, backend=compiler) if compiler else model
    torch.manual_seed(0)
    with torch.autocast(device, dtype, enabled=dtype in HALVES):
        found = losses(called, device)
    sum(value for name, value in found.items() if 'loss' in name).backward()
    grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {name: value.detach().cpu() for name, value in (*found.items(), *grads.items())}


def classify(model: nn.Module, device: str) -> dict[str, Tensor]:
    """Losses of mmpretrain's classifier on four random images of 64 pixels."""
    from mmpretrain.structures import DataSample

    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    samples = [DataSample().set_gt_label(label) for label in range(4)]
    return model(**model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True), mode='loss')


def look(module: nn.Module, device: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """A loss of the maps or tokens that a module makes of random ones of a shape, for :func:`step`."""
    out = module(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device))
    return dict(loss=sum(level.square().mean() for level in (out if isinstance(out, tuple) else [out])))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Compare two results of :func:`step`.

    Args:
        found: On a device.
        expected: On the CPU.
        tolerance: Largest norm of a difference, over the norm of the expected value; where that is below a hundredth
            of the largest of all, as of a bias in front of a batch norm, over this hundredth.
    """
    assert found.keys() == expected.keys()
    norms = {name: float(value.norm()) for name, value in expected.items()}
    floor = max(norms.values()) / 100
    assert floor > 0
    errors = {
        name: float((found[name] - value).norm()) / max(norms[name], floor) for name, value in expected.items()
    }  # fmt: skip
    worst = sorted(errors, key=errors.get)[::-1][:3]
    assert errors[worst[0]] <= tolerance, {name: errors[name] for name in worst}  # NaN fails too


def check_step(model: nn.Module, losses: Losses, device: str, tolerance: float = 1e-2) -> None:
    """Compare losses and gradients in float32 with those of the CPU.

    Rounding alone gives 1e-5. But a ReLU near 0 may open on one side only, and in these small networks one of them is a
    hundredth of a gradient.
    """
    assert_same(step(model, losses, device), step(model, losses, 'cpu'), tolerance)


def check_half(model: nn.Module, losses: Losses, device: str, dtypes: tuple[torch.dtype, ...] = HALVES) -> None:
    """See that losses and gradients under autocast are finite and not all zero."""
    for dtype in dtypes:
        found = step(model, losses, device, dtype)
        assert not [name for name, value in found.items() if not value.isfinite().all()], dtype
        assert any(value.any() for value in found.values())


def check_compiled(model: nn.Module, losses: Losses, device: str, tolerance: float = 1e-2) -> None:
    """Compare a compiled step with the eager one on the same device.

    On the CPU nothing but tracing and automatic differentiation is compiled: a C++ compiler takes long.
    """
    compiled = step(model, losses, device, compiler='inductor' if device == 'cuda' else 'aot_eager')
    assert_same(compiled, step(model, losses, device), tolerance)


@contextlib.contextmanager
def no_host_sync(device: str) -> Iterator[None]:
    """Fail where the host waits for the device; on the CPU, at the operations at which it would.

    Run what is inside once before: the first call of a library may wait.
    """
    if device == 'cpu':
        with Counter() as counter:
            yield
        assert counter.syncs == 0
        return
    torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode('default')
