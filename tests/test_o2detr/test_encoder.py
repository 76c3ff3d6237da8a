"""The depthwise separable encoder: what it computes, how far it sees, what it costs."""

import pytest
import torch
from mmcv.cnn.bricks.transformer import FFN, MultiheadAttention
from mmdet.models.layers import DeformableDetrTransformerEncoder
from mmdet.models.layers.transformer.deformable_detr_layers import DeformableDetrTransformerEncoderLayer
from mmdet.models.layers.transformer.detr_layers import DetrTransformerEncoderLayer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmplugins.o2detr import DepthwiseSeparableMixer, DWSepEncoder, DWSepEncoderLayer
from mmplugins.o2detr.encoder import CROSS_LEVEL, NoEncoder, as_maps, exchange, pool_to

SHAPES = [(8, 12), (4, 6), (2, 3), (1, 2)]


def tokens(dims, shapes=SHAPES, batch=2):
    return torch.randn(batch, sum(h * w for h, w in shapes), dims)


def encoder(dims=8, layers=2, num_cp=-1, cross_level='adjacent', **mixer):
    mixer = dict(embed_dims=dims, cross_level=cross_level, **mixer)
    cfg = dict(mixer_cfg=mixer, ffn_cfg=dict(embed_dims=dims, feedforward_channels=16))
    made = DWSepEncoder(num_layers=layers, layer_cfg=cfg, num_cp=num_cp)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.eval()


class TestMixer:
    def test_is_a_grouped_and_a_pointwise_convolution(self):
        dims, (height, width) = 3, (4, 5)
        mixer = DepthwiseSeparableMixer(dims)
        nn.init.normal_(mixer.depthwise.bias)
        x = tokens(dims, [(height, width)], batch=1)
        kernel, bias = mixer.depthwise.weight[:, 0], mixer.depthwise.bias
        hidden = torch.zeros(height, width, dims)
        image = x[0].view(height, width, dims)
        for i in range(height):
            for j in range(width):
                for d in range(dims):
                    total = bias[d]
                    for di in (-1, 0, 1):
                        for dj in (-1, 0, 1):
                            if 0 <= i + di < height and 0 <= j + dj < width:
                                total = total + kernel[d, di + 1, dj + 1] * image[i + di, j + dj, d]
                    hidden[i, j, d] = total.clamp(min=0)
        expected = torch.zeros(height, width, dims)
        for e in range(dims):
            for d in range(dims):
                expected[..., e] += mixer.pointwise.weight[e, d] * hidden[..., d]
            expected[..., e] += mixer.pointwise.bias[e]
        out = mixer(x, spatial_shapes=[(height, width)])
        assert torch.allclose(out.view(height, width, dims), expected, atol=1e-5)

    @pytest.mark.parametrize('k', [3, 5, 7])
    def test_number_of_parameters(self, k):
        mixer = DepthwiseSeparableMixer(16, kernel_size=k)
        assert sum(p.numel() for p in mixer.parameters()) == k * k * 16 + 16 + 16 * 16 + 16

    def test_levels_are_split_in_order_without_a_copy(self):
        x = tokens(4)
        maps = as_maps(x, SHAPES)
        start = 0
        for level, (h, w) in zip(maps, SHAPES, strict=True):
            assert torch.equal(level.flatten(2).transpose(1, 2), x[:, start : start + h * w])
            assert level.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
            start += h * w

    def test_exchange_by_loops(self):
        maps = as_maps(tokens(3, batch=1), SHAPES)
        mixed = exchange(maps)
        for level, (height, width) in enumerate(SHAPES):
            for i in range(height):
                for j in range(width):
                    expected = maps[level][0, :, i, j]
                    if level:
                        expected = expected + maps[level - 1][0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].amax((1, 2))
                    if level + 1 < len(SHAPES):
                        h, w = SHAPES[level + 1]
                        expected = expected + maps[level + 1][0, :, i * h // height, j * w // width]
                    assert torch.allclose(mixed[level][0, :, i, j], expected)

    @pytest.mark.parametrize('shapes', [[(13, 7), (7, 4), (4, 2)], [(9, 9), (4, 5), (2, 1)], [(5, 5)]], ids=str)
    @pytest.mark.parametrize('cross_level', ['adjacent', 'none'])
    def test_any_sizes(self, shapes, cross_level):
        x = tokens(8, shapes)
        assert encoder(cross_level=cross_level)(x, x, None, torch.tensor(shapes)).shape == x.shape

    def test_halves_are_pooled_as_the_adaptive_pooling_does(self):
        x = torch.randn(1, 2, 8, 6)
        assert torch.equal(pool_to(x, (4, 3)), nn.functional.adaptive_max_pool2d(x, (4, 3)))
        assert pool_to(x[..., :5], (4, 3)).shape == (1, 2, 4, 3) == pool_to(torch.randn(1, 2, 9, 9), (4, 3)).shape

    def test_depthwise_kernels_are_not_too_small(self, build_model):
        mixer = build_model().encoder.layers[0].mixer
        assert mixer.depthwise.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.15)

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [(dict(cross_level='all'), "'adjacent', 'none'"), (dict(kernel_size=4), 'kernel_size must be odd')],
    )
    def test_wrong_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            DepthwiseSeparableMixer(8, **arguments)

    def test_no_activation(self):
        mixer = DepthwiseSeparableMixer(8, act_cfg=None)
        x, y = tokens(8), tokens(8)
        zero = mixer(torch.zeros_like(x), spatial_shapes=SHAPES)
        kwargs = dict(spatial_shapes=[(sum(h * w for h, w in SHAPES), 1)])
        sums = mixer(x + y, **kwargs) - mixer(x, **kwargs) - mixer(y, **kwargs) + mixer(0 * x, **kwargs)
        assert zero.isfinite().all() and sums.abs().max() < 1e-5  # affine


@pytest.mark.parametrize('kernel_size', [3, 5])
@pytest.mark.parametrize('level', [0, 1])
def test_a_cell_reaches_its_neighborhood_only(kernel_size, level):
    shapes, layers = [(40, 60), (20, 30)], 6
    model = encoder(4, layers, kernel_size=kernel_size, cross_level='none').double()
    x = tokens(4, shapes, batch=1).double()
    starts = [0, 40 * 60]
    height, width = shapes[level]
    row, column = height // 2, width // 2
    changed = x.clone()
    changed[0, starts[level] + row * width + column] += 1
    delta = (model(x, x * 0, None, shapes) - model(changed, x * 0, None, shapes)).abs().sum(-1)[0]
    per_level = delta.split([h * w for h, w in shapes])
    assert not per_level[1 - level].any()
    reach = layers * (kernel_size // 2)
    rows, columns = per_level[level].view(height, width).nonzero().unbind(1)
    assert (rows - row).abs().max() <= reach and (columns - column).abs().max() <= reach
    assert (rows - row).abs().max() == min(reach, row)  # and no less


def test_exchange_reaches_other_levels():
    x = tokens(8, batch=1)
    changed = x.clone()
    changed[0, 0] += 1
    model = encoder(layers=1)
    delta = (model(x, x * 0, None, SHAPES) - model(changed, x * 0, None, SHAPES)).abs().sum(-1)
    assert [bool(part.any()) for part in delta.split([h * w for h, w in SHAPES], dim=1)] == [True, True, False, False]


@pytest.mark.parametrize('size', [(64, 96), (50, 90), (33, 71)], ids=str)
@pytest.mark.parametrize('cross_level', ['adjacent', 'none'])
def test_padding_does_not_leak(size, cross_level):
    def cells(height, width):
        return [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64)]

    own, padded = cells(*size), cells(128, 128)
    model = encoder(8, 6, cross_level=cross_level)
    maps, positions = ([torch.randn(1, h, w, 8) for h, w in own] for _ in range(2))

    def pad(parts, value):
        # Garbage in the padding: biases of the neck, positions.
        filled = [torch.full((1, *shape, 8), value) for shape in padded]
        for part, whole, (h, w) in zip(parts, filled, own, strict=True):
            whole[:, :h, :w] = part
        return torch.cat([whole.flatten(1, 2) for whole in filled], dim=1)

    mask = pad([torch.zeros(1, h, w, 8) for h, w in own], 1.0)[..., 0].bool()
    alone = model(
        torch.cat([x.flatten(1, 2) for x in maps], 1), torch.cat([x.flatten(1, 2) for x in positions], 1), None, own
    )
    batched = model(pad(maps, 7.0), pad(positions, -3.0), mask, torch.tensor(padded))
    assert torch.allclose(batched[~mask], alone[0], atol=1e-5)


def test_a_cell_over_padding_only_is_finite():
    # Where sizes are not multiples, a valid coarse cell may lie over padding alone.
    mask = torch.ones(1, 16 + 4, dtype=torch.bool)
    mask[:, [0, 16, 17]] = False
    x = tokens(8, [(4, 4), (2, 2)], batch=1)
    assert encoder()(x, x, mask, [(4, 4), (2, 2)]).abs().max() < 100


def test_recomputed_layers_give_the_same_gradients():
    x = tokens(8)
    grads = []
    for num_cp in (-1, 2):
        torch.manual_seed(0)
        model = encoder(num_cp=num_cp).train()
        model(x, x, None, SHAPES).pow(2).sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype):
    x = tokens(8)
    mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    mask[:, ::7] = True
    with torch.autocast('cpu', dtype=dtype):
        out = encoder()(x, x, mask, SHAPES)
    assert out.isfinite().all()


def test_widths_must_agree():
    with pytest.raises(ValueError, match='mixer_cfg has embed_dims 8, ffn_cfg 16'):
        DWSepEncoderLayer(dict(embed_dims=8), dict(embed_dims=16, feedforward_channels=8))


def test_no_encoder_adds_the_positions():
    x, y = tokens(8), tokens(8)
    assert torch.equal(NoEncoder(8)(query=x, query_pos=y, key_padding_mask=None), x + y)


@pytest.mark.slow
class TestCost:
    """Counted, not timed. D = 64 instead of 256 keeps it quick; token numbers are those of real images."""

    D = 64

    @pytest.fixture(scope='class')
    def costs(self):
        return {size: self.count(size) for size in (256, 512, 1024)}

    def count(self, size):
        dims = self.D
        shapes = torch.tensor([(size // stride,) * 2 for stride in (8, 16, 32, 64)])
        starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
        x = tokens(dims, shapes.tolist(), batch=1).requires_grad_()
        references = DeformableDetrTransformerEncoder.get_encoder_reference_points(shapes, torch.ones(1, 4, 2), 'cpu')
        ffn = dict(embed_dims=dims, feedforward_channels=4 * dims, ffn_drop=0.0)
        attention = dict(embed_dims=dims, num_heads=8, dropout=0.0)
        layers = dict(
            **{name: DWSepEncoderLayer(dict(embed_dims=dims, cross_level=name), ffn) for name in CROSS_LEVEL},
            deformable=DeformableDetrTransformerEncoderLayer(self_attn_cfg=attention.copy(), ffn_cfg=ffn),
        )
        if size < 1024:
            layers['dense'] = DetrTransformerEncoderLayer(self_attn_cfg=attention.copy(), ffn_cfg=ffn)
            assert isinstance(layers['dense'].self_attn, MultiheadAttention)
        assert all(isinstance(layer.ffn, FFN) for layer in layers.values())
        more = dict(
            **{name: dict(spatial_shapes=shapes.tolist()) for name in CROSS_LEVEL},
            dense={},
            deformable=dict(spatial_shapes=shapes, level_start_index=starts, reference_points=references),
        )
        found = dict(tokens=x.size(1))
        for name, layer in layers.items():
            storages = {}

            def keep(tensor, storages=storages):
                if not isinstance(tensor, nn.Parameter):
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with FlopCounterMode(display=False) as flops, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
                out = layer(x, query_pos=x.detach(), key_padding_mask=None, **more[name])
            found[name] = dict(flops=flops.get_total_flops(), bytes=sum(storages.values()))
            del out
        return found

    @pytest.mark.parametrize('what', ['flops', 'bytes'])
    @pytest.mark.parametrize('ours', CROSS_LEVEL)
    def test_linear_in_the_number_of_tokens(self, costs, ours, what):
        ratios = [cost[ours][what] / cost['tokens'] for cost in costs.values()]
        assert max(ratios) / min(ratios) < 1.05, ratios

    @pytest.mark.parametrize('ours', CROSS_LEVEL)
    def test_operations_are_those_of_the_formula(self, costs, ours):
        dims = self.D
        for cost in costs.values():
            assert cost[ours]['flops'] == 2 * cost['tokens'] * (9 * dims + dims**2 + 8 * dims**2)

    @pytest.mark.parametrize('what', ['flops', 'bytes'])
    @pytest.mark.parametrize('ours', CROSS_LEVEL)
    def test_cheaper_than_attention(self, costs, ours, what):
        for size, cost in costs.items():
            if what == 'bytes':  # the counter does not see the sampling of deformable attention
                assert cost[ours][what] < 0.45 * cost['deformable'][what], size
            assert cost[ours][what] < cost['deformable'][what], size
            if 'dense' in cost:
                assert cost[ours][what] < cost['dense'][what], size
