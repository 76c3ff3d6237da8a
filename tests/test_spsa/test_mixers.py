"""The reference mixers against their formulas, the host's module, and torch's attention."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.spsa.mixers import MHSA, SGE, SimAM
from mmplugins.spsa import SPSANet, spsa_agg
from mmplugins.spsa.layer import build_mixer


@pytest.mark.parametrize('name', ['SPSA', 'SPSASimAM', 'SPSASGE', 'SPSAMHSA', None])
def test_all_have_one_interface(name):
    mixer = build_mixer(name and dict(type=name), in_channels=32)
    for size in ((2, 32, 5, 7), (1, 32, 1, 1)):
        x = torch.randn(size, requires_grad=True)
        y = mixer(x)
        assert y.shape == x.shape and y.isfinite().all()
        y.square().sum().backward()
        assert x.grad.isfinite().all()
    expected = dict(SPSASGE=2 * 2, SPSAMHSA=3 * 32 * 32 + 3 * 32).get(name, 0)
    assert sum(parameter.numel() for parameter in mixer.parameters()) == expected


def test_common_names_are_left_to_the_user():
    """The root registry is every host's and user's: a second class of a name is an error there."""
    ours = {name for name, cls in MODELS.module_dict.items() if '.spsa.' in cls.__module__}
    assert ours and all(name.startswith('SPSA') for name in ours)


def test_simam_per_value():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = torch.empty_like(x)
    for image in range(2):
        for channel in range(3):
            values = x[image, channel]
            energy = (values - values.mean()) ** 2 / (4 * (values.var() + 1e-4)) + 0.5
            expected[image, channel] = values / (1 + (-energy).exp())
    torch.testing.assert_close(SimAM(3)(x), expected)


def test_sge_per_group():
    layer = SGE(8, num_heads=2).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(1, 8, 4, 5, dtype=torch.float64)
    for group in range(2):
        part = x[0, 4 * group : 4 * group + 4].reshape(4, -1)
        score = part.mean(1) @ part
        score = (score - score.mean()) / (score.var(unbiased=False) + 1e-5).sqrt()
        gate = (score * layer.weight[0, group, 0] + layer.bias[0, group, 0]).sigmoid()
        torch.testing.assert_close(layer(x)[0, 4 * group : 4 * group + 4].reshape(4, -1), part * gate)


def test_mhsa_is_torch_attention():
    layer = MHSA(32, num_heads=4)
    torchs = nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        torchs.in_proj_weight.copy_(layer.qkv.weight.flatten(1))
        torchs.in_proj_bias.copy_(layer.qkv.bias)
        torchs.out_proj.weight.copy_(torch.eye(32))
        torchs.out_proj.bias.zero_()
    x = torch.randn(2, 32, 3, 5)
    tokens = x.flatten(2).transpose(1, 2)
    expected = torchs(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_mhsa_forms_no_matrix_of_all_pairs():
    """It is the fused kernel, or the comparison of time and memory would be unfair."""
    names = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Names():
        MHSA(32)(torch.randn(1, 32, 8, 8))
    assert '_scaled_dot_product_flash_attention_for_cpu' in names
    assert not {'bmm', '_softmax', '_safe_softmax'} & set(names)


def test_skip_adds_the_tokens():
    net = SPSANet(dict(dims=(16,), depths=(1,)), mixer=dict(type='SPSASkipMixer', mixer=dict(type='SPSA', mode='agg')))
    mixer = net.stages[0][0].mixer
    x = torch.randn(2, 16, 3, 4)
    torch.testing.assert_close(mixer(x), x + spsa_agg(x, 1))
    assert not mixer.state_dict()
