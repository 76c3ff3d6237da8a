"""The layer as a module: options, bad input, state, cost."""

import copy
import math

import pytest
import torch
from mmcv.cnn import build_plugin_layer
from mmengine.registry import MODELS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmplugins.spsa import SPSA, spsa_agg, spsa_gate


@pytest.mark.parametrize('mode', ['gate', 'agg'])
def test_no_parameters_and_no_buffers(mode):
    layer = SPSA(64, mode=mode)
    assert list(layer.parameters()) == list(layer.buffers()) == []
    assert layer.state_dict() == {}


def test_checkpoints_load_with_and_without(tmp_path):
    class Host(nn.Module):
        def __init__(self, mixer=None):
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 1)
            self.mixer = mixer or nn.Identity()
            self.norm = nn.BatchNorm2d(16)

    plain, ours = Host(), Host(SPSA(16))
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    assert ours.load_state_dict(torch.load(tmp_path / 'plain.pth', weights_only=True), strict=True)
    torch.save(ours.state_dict(), tmp_path / 'ours.pth')
    assert plain.load_state_dict(torch.load(tmp_path / 'ours.pth', weights_only=True), strict=True)


def test_heads():
    assert SPSA(64).num_heads == 4  # of 16 channels
    assert SPSA(64, head_dim=8).num_heads == 8
    assert SPSA(60, num_heads=5).num_heads == 5


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(in_channels=60), r'head_dim=16 does not divide in_channels=60; possible: \[1, 2, 3'),
        (dict(in_channels=64, num_heads=5), 'num_heads=5 does not divide in_channels=64'),
        (dict(in_channels=64, num_heads=0), 'num_heads=0'),
        (dict(in_channels=8), 'head_dim=16 does not divide in_channels=8'),
        (dict(in_channels=8, head_dim=0), 'head_dim=0 does not divide in_channels=8'),
        (dict(in_channels=8, head_dim=1), r'heads of 1 channel\(s\); at least 2'),
        (dict(in_channels=8, num_heads=8), r'heads of 1 channel\(s\); at least 2'),
        (dict(in_channels=64, num_heads=4, head_dim=16), 'not both'),
        (dict(in_channels=64, mode='mix'), "mode='mix' is not one of gate, agg"),
        (dict(in_channels=64, act='relu'), "act='relu' is not one of one_plus, sigmoid, raw, softmax"),
        (dict(in_channels=64, key='max'), "key='max' is not one of gap, mean_normed"),
        (dict(in_channels=64, mode='agg', act='sigmoid'), "options of mode='gate'"),
        (dict(in_channels=64, mode='agg', key='mean_normed'), "options of mode='gate'"),
        (dict(in_channels=64, eps=0), 'eps=0 must be positive'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SPSA(**options)


def test_bad_input():
    with pytest.raises(ValueError, match=r'built for 64 channels, got an input \(2, 32, 4, 4\)'):
        SPSA(64)(torch.zeros(2, 32, 4, 4))


@pytest.mark.parametrize('mode', ['gate', 'agg'])
@pytest.mark.parametrize('size', [(1, 16, 1, 1), (1, 48, 3, 5), (3, 32, 1, 9)])
def test_shapes(mode, size):
    x = torch.randn(size)
    y = SPSA(size[1], mode=mode)(x)
    assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all()


def test_layer_is_the_function():
    x = torch.randn(2, 24, 4, 4)
    found = SPSA(24, num_heads=3, act='sigmoid', key='mean_normed', eps=1e-3)(x)
    assert torch.equal(found, spsa_gate(x, 3, 'sigmoid', 'mean_normed', 1e-3))
    assert torch.equal(SPSA(24, num_heads=3, mode='agg', eps=1e-3)(x), spsa_agg(x, 3, 1e-3))


@pytest.mark.parametrize('mode', ['gate', 'agg'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast(mode, dtype):
    conv, layer = nn.Conv2d(16, 32, 1), SPSA(32, mode=mode)
    with torch.autocast('cpu', dtype=dtype):
        features = conv(torch.randn(2, 16, 8, 8))
        found = layer(features)
        found.float().square().mean().backward()
    assert features.dtype == found.dtype == dtype
    torch.testing.assert_close(found.float(), layer(features.float()), atol=1e-3, rtol=1e-2)
    assert all(parameter.grad.isfinite().all() for parameter in conv.parameters())


def test_built_by_hosts():
    name, layer = build_plugin_layer(dict(type='SPSA', head_dim=8), in_channels=32, postfix='_x')
    assert name == 'spsa_x' and layer.num_heads == 4
    for scope in ('mmdet', 'mmpretrain'):
        with MODELS.switch_scope_and_registry(scope) as registry:
            assert isinstance(registry.build(dict(type='SPSA', in_channels=32)), SPSA)
    assert 'num_heads=4' in repr(layer) and copy.deepcopy(layer).num_heads == 4


class Counter(TorchDispatchMode):
    """Elements that operations write (views excluded), and the largest single result."""

    def __init__(self):
        super().__init__()
        self.written = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and not func.is_view:
                self.written += tensor.numel()
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize('mode', ['gate', 'agg'])
def test_cost_is_linear_in_tokens(mode):
    """Elements written, and the largest array, from 196 to 65,536 tokens: slope 1 in log-log."""
    sides = (14, 28, 56, 112, 256)
    written, largest = [], []
    for side in sides:
        with Counter() as counter:
            SPSA(64, mode=mode)(torch.zeros(1, 64, side, side))
        written.append(counter.written)
        largest.append(counter.largest)
    span = math.log(256**2 / 14**2)
    for values in (written, largest):
        assert math.log(values[-1] / values[0]) / span == pytest.approx(1, abs=0.05)
    assert largest[-1] == 64 * 256**2  # nothing is larger than the map
    # The input, and of the gate four of its size: centered, squared, times the key, the output; others are a sixteenth.
    assert mode == 'agg' or written[-1] < 6 * 64 * 256**2


def test_gate_moves_no_data():
    """No operation that only moves data, whatever the memory format."""

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    for memory_format in (torch.contiguous_format, torch.channels_last):
        names = []
        x = torch.randn(2, 64, 8, 8).to(memory_format=memory_format)
        with Names():
            SPSA(64)(x)
        assert not {'clone', 'copy_', '_to_copy', 'contiguous', 'cat', 'permute', 'transpose', '_reshape_copy'} & set(
            names
        )


def test_autograd_keeps_the_input_the_centered_tokens_and_small_maps():
    saved = []
    x = torch.randn(2, 64, 32, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        SPSA(64)(x)
    large = {t.untyped_storage().data_ptr() for t in saved if t.numel() >= x.numel()}
    assert x.untyped_storage().data_ptr() in large and len(large) == 2
