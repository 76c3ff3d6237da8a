"""Counts against what can be counted by hand."""

import functools
import weakref

import pytest
import torch
from torch import nn

from experiments.frame import measure
from experiments.frame.benchmark import step_of


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4, bias=False))


def test_flops_of_two_products(net):
    assert measure.flops(lambda: net(torch.ones(5, 8))) == 2 * 5 * (8 * 16 + 16 * 4)


def test_flops_of_fused_attention():
    q = torch.randn(2, 3, 10, 8)
    count = measure.flops(lambda: nn.functional.scaled_dot_product_attention(q, q, q))
    assert count == 2 * (2 * 2 * 3 * 10 * 10 * 8)


def test_kept_bytes_are_activations_not_weights(net):
    x = torch.ones(5, 8)
    # The input of the first layer, and the output of the activation, which is also the input of the second.
    assert measure.kept_bytes(lambda: net(x)) == 4 * (5 * 8 + 5 * 16)


def test_kernels_and_traffic():
    a, b = torch.ones(10), torch.ones(10)
    with measure.Counter() as counter:
        (a + b).view(2, 5).exp()
    assert (counter.kernels, counter.syncs) == (2, 0)
    assert counter.traffic == 4 * (30 + 20)


@pytest.mark.parametrize(
    ('call', 'syncs'),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0].clone(), 2),  # the mask's places, and the size of the result
        (lambda x: x[torch.tensor([0, 1])], 0),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x.relu(), 0),
    ],
    ids=['item', 'nonzero', 'mask', 'index', 'bool', 'relu'],
)
def test_syncs(call, syncs):
    x = torch.tensor([1.0, -1.0, 2.0])
    with measure.Counter() as counter:
        call(x)
    assert (counter.syncs > 0) == (syncs > 0)


def test_graphs(net):
    class Broken(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum().item() > 0 else x

    assert measure.graphs(net, torch.ones(5, 8)) == 1
    assert measure.graphs(Broken(), torch.ones(3)) > 1


def test_interleaved_arms_take_turns():
    order = []
    measure.interleaved({'a': lambda: order.append('a'), 'b': lambda: order.append('b')}, 3, 'cpu')
    assert ''.join(order) == 'ab' * 4  # one to warm up


def test_step_goes_backward_where_there_is_a_gradient(net):
    step_of(lambda: dict(loss=net(torch.ones(5, 8)), other=torch.ones(1)))()
    assert all(parameter.grad is not None for parameter in net.parameters())
    step_of(lambda: 'no tensor')()


@pytest.mark.slow
def test_peak_is_what_was_allocated():
    build = functools.partial(functools.partial, torch.ones)  # a call that allocates, and that a process can import
    assert measure.peak_bytes(build, (2**25,), (10,), 'cpu') == pytest.approx(2**27, rel=0.05)


class PretendedEvent:
    clock = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = PretendedEvent.clock

    def elapsed_time(self, end):
        return end.time - self.time


def test_time_on_a_gpu_is_that_between_two_events(monkeypatch):
    def call():
        PretendedEvent.clock += 30  # ms

    monkeypatch.setattr(torch.cuda, 'Event', PretendedEvent)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    assert measure.seconds_of(call, 'cuda') == pytest.approx(0.03)


def test_peak_on_a_gpu_is_that_of_the_allocator(monkeypatch):
    bytes_now = dict(now=100, most=0)

    def build(size):
        def call():
            bytes_now['most'] = max(bytes_now['most'], bytes_now['now'] + size)

        return call

    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    monkeypatch.setattr(torch.cuda, 'memory_allocated', lambda: bytes_now['now'])
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: bytes_now['most'])
    monkeypatch.setattr(torch.cuda, 'reset_peak_memory_stats', lambda: bytes_now.update(most=0))
    assert measure.peak_bytes(build, (7,), (1000,), 'cuda') == 7


def test_what_was_counted_is_freed():
    freed = []

    def call():
        # An exponential keeps its own result for the backward pass.
        out = torch.ones(4, requires_grad=True).exp()
        weakref.finalize(out, freed.append, True)
        return out.sum()

    measure.kept_bytes(call)
    assert freed
