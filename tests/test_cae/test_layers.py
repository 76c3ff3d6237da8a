"""Blocks: equal to the host's where it is right, and right where it is not."""

import pytest
import torch
from mmcv.cnn.bricks.transformer import FFN
from mmpretrain.models.backbones.beit import BEiTTransformerEncoderLayer
from mmpretrain.models.necks.cae_neck import CAETransformerRegressorLayer
from mmpretrain.models.utils import BEiTAttention

from experiments.frame import measure
from mmplugins.cae.layers import ACT_CFG, CAEFFN, CAEAttention, CAEEncoderLayer, CAERegressorLayer, drop_path_rates

SIZES = dict(embed_dims=48, num_heads=4, feedforward_channels=96)


def randomize(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


@pytest.mark.parametrize('rel_pos', [False, True], ids=['plain', 'relative positions'])
@pytest.mark.parametrize('bias', ['qv_bias', True, False], ids=str)
def test_attention_equals_the_hosts(rel_pos, bias):
    ours = randomize(CAEAttention(48, 4, (3, 4), rel_pos, bias=bias))
    host = BEiTAttention(48, 4, (3, 4), rel_pos, bias=bias)
    host.load_state_dict(ours.state_dict())
    x, shared = torch.randn(2, 13, 48), torch.randn(4, 13, 13)
    for extra in (None, shared):
        torch.testing.assert_close(ours(x, extra), host(x, extra), atol=1e-5, rtol=1e-5)
    ours(x).square().sum().backward()
    host(x).square().sum().backward()
    pairs = dict(host.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, pairs[name].grad, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize(('dtype', 'bound'), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize('scale', [0.1, 1e-5])  # LayerScale of the configs
def test_layer_scale_does_not_underflow(dtype, bound, scale):
    layer = CAEEncoderLayer(192, 4, 384, layer_scale_init_value=scale)
    for parameter in layer.attn.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    torch.nn.init.normal_(layer.ln1.bias)
    torch.nn.init.zeros_(layer.gamma_2)
    x = torch.zeros(2, 5, 192)  # the output is the branch alone, and sees the bias of its norm
    with torch.autocast('cpu', dtype), torch.no_grad():
        found = layer(x)
    exact = layer.double()(x.double())
    assert (found - exact).norm() < bound * exact.norm()


def test_relative_position_table_starts_at_zero():
    attention = CAEAttention(48, 4, (3, 4), True)
    attention.init_weights()
    assert not attention.relative_position_bias_table.any()


def test_encoder_layer_equals_the_hosts():
    ours = randomize(CAEEncoderLayer(**SIZES))
    host = BEiTTransformerEncoderLayer(
        **SIZES,
        layer_scale_init_value=0.1,
        window_size=None,
        use_rel_pos_bias=False,
        norm_cfg=dict(type='LN', eps=1e-6),
    )
    host.load_state_dict(ours.state_dict())
    x = torch.randn(2, 7, 48)
    torch.testing.assert_close(ours(x), host(x, None), atol=1e-5, rtol=1e-5)


def test_regressor_layer_equals_the_hosts():
    ours = randomize(CAERegressorLayer(**SIZES, qkv_bias=True))
    host = CAETransformerRegressorLayer(**SIZES, qkv_bias=True, layer_scale_init_value=0.1)
    host.load_state_dict(ours.state_dict())
    queries, union, pos_q, pos_k = (torch.randn(2, n, 48) for n in (3, 8, 3, 8))
    torch.testing.assert_close(
        ours(queries, union, pos_q, pos_k), host(queries, union, pos_q, pos_k), atol=1e-5, rtol=1e-5
    )


def dropped(layer, branch, trials=2000):
    """How often a branch adds nothing, with the other one switched off."""
    for name, gamma in (('attn', layer.gamma_1), ('ffn', layer.gamma_2)):
        torch.nn.init.constant_(gamma, float(name == branch))
    x = torch.randn(trials, 5, 48)
    with torch.no_grad():
        return float((layer.train()(x, None) == x).flatten(1).all(1).float().mean())


@pytest.mark.parametrize('branch', ['attn', 'ffn'])
def test_drop_path_drops_each_branch_once(branch):
    layer = CAEEncoderLayer(**SIZES, drop_path_rate=0.5)
    assert dropped(layer, branch) == pytest.approx(0.5, abs=0.05)


def test_host_drops_the_ffn_twice():
    host = BEiTTransformerEncoderLayer(
        **SIZES, layer_scale_init_value=0.1, window_size=None, use_rel_pos_bias=False, drop_path_rate=0.5
    )
    assert dropped(host, 'ffn') == pytest.approx(0.75, abs=0.05)  # what the override is for


def test_drop_path_grows_from_zero():
    assert drop_path_rates(0.1, 3) == [0.0, 0.05, 0.1]
    assert drop_path_rates(0.1, 1) == [0.0]  # as linspace gives it


def test_attention_dropout_is_applied():
    layer = CAEEncoderLayer(**SIZES, attn_drop_rate=0.5)
    x = torch.randn(2, 7, 48)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize('value', [None, 0.0])
def test_no_layer_scale(value):
    layer = CAEEncoderLayer(**SIZES, layer_scale_init_value=value)
    scaled = CAEEncoderLayer(**SIZES, layer_scale_init_value=1.0)
    scaled.load_state_dict(layer.state_dict(), strict=False)
    x = torch.randn(2, 5, 48)
    torch.testing.assert_close(layer(x), scaled(x))
    regressor = CAERegressorLayer(**SIZES, layer_scale_init_value=value)
    assert not regressor.gamma_1_cross.requires_grad and torch.equal(regressor.gamma_1_cross, torch.ones(48))


@pytest.mark.parametrize('cls', [CAEEncoderLayer, CAERegressorLayer])
def test_heads_must_divide_the_channels(cls):
    with pytest.raises(ValueError, match='embed_dims=50.*num_heads=4'):
        cls(50, 4, 100)


def test_checkpointing_gives_the_same_gradients():
    plain, lean = CAEEncoderLayer(**SIZES), CAEEncoderLayer(**SIZES, with_cp=True)
    lean.load_state_dict(plain.state_dict())
    gradients = []
    for layer in (plain, lean):
        x = torch.ones(2, 5, 48).cumsum(1).requires_grad_()
        layer(x).square().sum().backward()
        gradients.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize('dropout', [0.0, 0.3])
@pytest.mark.parametrize('dtype', [None, torch.float16, torch.bfloat16], ids=str)
def test_ffn_equals_mmcvs(dropout, dtype):
    ours = randomize(CAEFFN(48, 96, dropout, ACT_CFG))
    host = FFN(48, 96, act_cfg=ACT_CFG, ffn_drop=dropout, add_identity=False)
    host.load_state_dict(ours.state_dict())
    x, found = torch.randn(2, 5, 48), []
    for ffn in (ours, host):
        torch.manual_seed(0)
        leaf = x.clone().requires_grad_()
        with torch.autocast('cpu', dtype, enabled=dtype is not None):
            out = ffn(leaf)
        torch.rand(3)  # what is drawn later must not matter
        out.float().square().sum().backward()
        found.append([out, leaf.grad, *(parameter.grad for parameter in ffn.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


class LoRA(torch.nn.Module):
    """A second layer as libraries for fine-tuning put it there, with a dropout of its own."""

    def __init__(self, base):
        super().__init__()
        self.base, self.drop = base, torch.nn.Dropout(0.5)
        self.down = torch.nn.Linear(base.in_features, 4, bias=False)
        self.up = torch.nn.Linear(4, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(self.drop(x)))


def test_dropout_behind_the_activation_is_drawn_once():
    torch.manual_seed(0)
    ours, host = CAEFFN(48, 96, 0.0, ACT_CFG), FFN(48, 96, act_cfg=ACT_CFG, add_identity=False)
    for ffn in (ours, host):
        ffn.layers[1] = LoRA(ffn.layers[1])
    host.load_state_dict(ours.state_dict())
    x, found = torch.randn(2, 5, 48), []
    for ffn in (ours, host):
        torch.manual_seed(1)
        ffn(x).square().sum().backward()
        found.append([parameter.grad for parameter in ffn.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_ffn_repeats_no_product():
    ours, host = CAEFFN(48, 96, 0.0, ACT_CFG), FFN(48, 96, act_cfg=ACT_CFG, add_identity=False)
    flops = []
    for ffn in (ours, host):
        with measure.Counter() as counter:
            ffn(torch.randn(2, 5, 48)).sum().backward()
        flops.append(counter.flops)
    assert flops[0] == flops[1] > 0


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_hooks_of_the_layers_of_the_ffn_see_calls(training):
    ffn, calls = CAEFFN(48, 96, 0.1, ACT_CFG).train(training), []
    for layer in (ffn.layers[0][0], ffn.layers[0][1], ffn.layers[1]):
        layer.register_forward_hook(lambda layer, args, out: calls.append(layer))
    ffn(torch.randn(2, 5, 48))
    assert calls == [ffn.layers[0][0], ffn.layers[0][1], ffn.layers[1]]


def floats_kept(layer, *inputs, **kwargs):
    """Floats that a forward pass keeps."""
    return measure.kept_bytes(lambda: layer(*inputs, **kwargs)) / 4


def test_encoder_layer_keeps_fewer_maps_than_the_hosts():
    batch, tokens, dims, heads = 2, 12, 48, 4
    sizes = dict(embed_dims=dims, num_heads=heads, feedforward_channels=4 * dims)
    host = BEiTTransformerEncoderLayer(
        **sizes, layer_scale_init_value=0.1, window_size=None, use_rel_pos_bias=False, bias='qv_bias'
    )
    x = torch.randn(batch, tokens, dims)
    rows, one_map = batch * tokens, batch * tokens * dims
    # Both normalizations: input, output, mean, deviation. Attention: q, k, v, output. Each branch, for its LayerScale.
    common = 2 * (2 * one_map + 2 * rows) + 4 * one_map + 2 * one_map
    # The hidden map once; of attention the sum of each row. The host: twice, and all weights of attention.
    assert floats_kept(CAEEncoderLayer(**sizes), x) == common + 4 * one_map + heads * rows
    assert floats_kept(host, x, None) == common + 8 * one_map + heads * rows * tokens


def test_regressor_layer_keeps_fewer_maps_than_the_hosts():
    batch, visible, masked, dims, heads = 2, 5, 7, 48, 4
    sizes = dict(embed_dims=dims, num_heads=heads, feedforward_channels=4 * dims, layer_scale_init_value=0.1)
    ours, host = CAERegressorLayer(**sizes, qkv_bias=True), CAETransformerRegressorLayer(**sizes, qkv_bias=True)
    inputs = [torch.randn(batch, count, dims) for count in (masked, visible + masked, masked, visible + masked)]
    rows, hidden = batch * masked, batch * masked * 4 * dims
    less = hidden + heads * rows * (visible + masked) - heads * rows
    assert floats_kept(host, *inputs) - floats_kept(ours, *inputs) == less
