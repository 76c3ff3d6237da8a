"""Products through oneDNN: those of torch, to the last digits, where they are large, and nothing else."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmplugins.utils.onednn import MIN_CHANNELS, MIN_ROWS, OneDNNLinear, onednn_linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='this torch has no oneDNN')


def make(shape: tuple[int, ...], out: int = 160, bias: bool = True) -> list[Tensor | None]:
    """Input, weight and bias that want gradients, in double precision."""
    torch.manual_seed(0)
    tensors = [torch.randn(shape), torch.randn(out, shape[-1]), torch.randn(out) if bias else None]
    return [None if x is None else x.double().requires_grad_() for x in tensors]


def in_float(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """Leaves in single precision."""
    return [None if x is None else x.detach().float().requires_grad_(x.requires_grad) for x in tensors]


def used(function) -> bool:
    """Whether a call goes through oneDNN, by the name of the operator."""
    with torch.profiler.profile() as profile:
        function()
    return any(event.name == 'aten::mkldnn_linear' for event in profile.events())


@pytest.mark.parametrize('shape', [(MIN_ROWS, MIN_CHANNELS), (4, 50, 128), (2, 3, 30, 200)], ids=str)
@pytest.mark.parametrize('bias', [True, False])
def test_values_and_gradients_are_those_of_double_precision(shape: tuple[int, ...], bias: bool) -> None:
    exact = make(shape, bias=bias)
    single = in_float(exact)
    expected = F.linear(*exact)
    with onednn_linear(single[0]):
        found = F.linear(*single)
    assert found.dtype == torch.float32 and found.layout == torch.strided
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    weights = torch.randn_like(expected)
    expected.mul(weights).sum().backward()
    found.mul(weights.float()).sum().backward()
    for a, b in zip(single, exact, strict=True):
        if a is not None:
            torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('frozen', [0, 1, 2], ids=['input', 'weight', 'bias'])
def test_what_is_frozen_gets_no_gradient(frozen: int) -> None:
    tensors = in_float(make((200, 128)))
    tensors[frozen].requires_grad_(False)
    with onednn_linear(tensors[0]):
        F.linear(*tensors).sum().backward()
    assert [x.grad is None for x in tensors] == [i == frozen for i in range(3)]


def test_views_and_names_of_arguments() -> None:
    x, weight, bias = in_float(make((128, 300)))
    with onednn_linear(x):
        found = F.linear(input=x.t(), weight=torch.randn(96, 128), bias=None)
    assert found.shape == (300, 96)
    with onednn_linear(x), onednn_linear(x):  # contexts in each other, as of a layer in a model
        found = F.linear(x, weight=weight, bias=bias)
    torch.testing.assert_close(found, F.linear(x, weight, bias), rtol=1e-5, atol=1e-4)


def test_only_large_products_of_floats() -> None:
    large, few_rows, few_channels = (in_float(make(shape)) for shape in ((128, 128), (127, 128), (512, 64)))
    with onednn_linear(large[0]):
        assert used(lambda: F.linear(*large))
        assert not used(lambda: F.linear(*few_rows))
        assert not used(lambda: F.linear(*few_channels))
        assert not used(lambda: F.linear(*[x.double() for x in large]))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert F.linear(*large).dtype == torch.bfloat16
    assert not used(lambda: F.linear(*large))


def test_graphs_are_left_alone() -> None:
    x, weight, bias = (tensor.detach() for tensor in in_float(make((128, 128))))

    def function(x: Tensor) -> Tensor:
        with onednn_linear(x):
            return F.linear(x, weight, bias)

    assert 'mkldnn' not in str(torch.jit.trace(function, x).graph)
    assert torch.equal(torch.compile(function, backend='eager', fullgraph=True)(x), F.linear(x, weight, bias))
    assert isinstance(onednn_linear(torch.empty(1, device='meta')), nullcontext)
    assert isinstance(onednn_linear(x), OneDNNLinear)


def test_second_derivatives_are_refused() -> None:
    x, weight, bias = in_float(make((128, 128)))
    with onednn_linear(x):
        out = F.linear(x, weight, bias)
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_checkpointing_computes_the_same() -> None:
    x, weight, bias = in_float(make((256, 128)))

    def layer(x: Tensor) -> Tensor:
        with onednn_linear(x):
            return F.gelu(F.linear(x, weight, bias)).square()

    (expected,) = torch.autograd.grad(layer(x).sum(), x)
    (found,) = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).sum(), x)
    assert torch.equal(found, expected)
