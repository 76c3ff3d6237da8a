"""Pointwise: the plain 1x1 convolution, whichever kernel computes it."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from mmplugins.dsnet.pointwise import ONEDNN, Pointwise, pointwise


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('side', [5, 40], ids=['below the threshold', 'above'])
def test_is_the_convolution(side, layout, one_thread):
    conv = Pointwise(16, 24)
    x = torch.randn(1, 16, side, side).contiguous(memory_format=layout).requires_grad_()
    found, expected = conv(x), F.conv2d(x, conv.weight, conv.bias)
    assert found.is_contiguous(memory_format=layout)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * weights).sum(), [x, conv.weight, conv.bias]) for y in (found, expected)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-5)


def kernels(function) -> set[str]:
    """Names of the operators that a call runs."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        function()
    return {event.key for event in record.key_averages()}


@pytest.mark.skipif(not ONEDNN, reason='this build of torch has no oneDNN')
def test_goes_to_onednn_for_one_image_and_one_thread(one_thread):
    """The reason for the dilation: as soon as torch itself does so, `pointwise` can go."""
    x, weight = torch.randn(1, 16, 40, 40, requires_grad=True), torch.randn(24, 16, 1, 1)
    assert 'aten::mkldnn_convolution' not in kernels(lambda: F.conv2d(x, weight))
    assert 'aten::mkldnn_convolution' in kernels(lambda: pointwise(x, weight, None))
    # Torch's own dilated convolution copies the map, and is slow: never that.
    for side in (5, 40):
        y = pointwise(torch.randn(1, 16, side, side, requires_grad=True), weight, None)
        assert not {key for key in kernels(lambda y=y: y.sum().backward()) if 'slow_conv_dilated' in key}


def test_captured_graphs_have_the_plain_convolution(one_thread):
    """They may run elsewhere."""
    script = torch.jit.trace(Pointwise(16, 24), torch.randn(1, 16, 40, 40))
    (node,) = (node for node in script.inlined_graph.nodes() if '_convolution' in node.kind())
    dilation = list(node.inputs())[5].node()  # after input, weight, bias, stride, padding
    assert [value.toIValue() for value in dilation.inputs()] == [1, 1]
