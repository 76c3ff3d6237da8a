"""The encoder."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.models import BEiTViT

from mmplugins.cae import CAEViT
from mmplugins.cae.tokens import is_sincos

TINY = dict(
    arch=dict(embed_dims=48, num_layers=3, num_heads=4, feedforward_channels=96), img_size=(24, 40), patch_size=8
)


@pytest.fixture
def vit():
    model = CAEViT(**TINY)
    model.init_weights()
    for parameter in model.parameters():  # LayerScale and biases off their start values
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.eval()
    return model


@pytest.mark.parametrize(
    ('arch', 'count'),
    [('tiny', 5_526_720), ('small', 21_670_272), ('base', 85_807_872), ('large', 303_326_208)],
)
def test_parameters_of_the_authors_encoders(arch, count):
    with torch.device('meta'):
        assert sum(parameter.numel() for parameter in CAEViT(arch=arch).parameters()) == count


@pytest.mark.parametrize(('arch', 'heads'), [('tiny', 12), ('small', 12), ('base', 12), ('large', 16)])
def test_heads_are_the_authors(arch, heads):
    with torch.device('meta'):
        assert {layer.attn.num_heads for layer in CAEViT(arch=arch).layers} == {heads}


def test_number_of_heads_matters(vit):
    other = CAEViT(**{**TINY, 'arch': {**TINY['arch'], 'num_heads': 12}})
    other.load_state_dict(vit.state_dict())  # loads silently, which is why the presets matter
    x = torch.randn(1, 3, 24, 40)
    assert (vit(x)[0] - other(x)[0]).abs().max() > 1e-3


def test_masked_pixels_never_enter(vit, draw_mask):
    x, mask = torch.randn(2, 3, 24, 40), draw_mask(2, 15, 7)
    pixels = mask.unflatten(1, (3, 5)).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    changed = torch.where(pixels, torch.randn_like(x) * 100, x)
    assert torch.equal(vit(x, mask), vit(changed, mask))
    assert not torch.equal(vit(x, ~mask), vit(changed, ~mask))
    assert vit(x, mask).shape == (2, 1 + 8, 48)


def test_all_patches_visible_equals_the_host(vit):
    host = BEiTViT(**TINY, use_abs_pos_emb=True, use_rel_pos_bias=False, final_norm=True, out_type='raw')
    host.load_state_dict(vit.state_dict())
    x = torch.randn(2, 3, 24, 40)
    pixels = vit.patch_pixels(x)
    everywhere = torch.arange(15).expand(2, -1)
    torch.testing.assert_close(vit.encode(pixels, everywhere), host(x)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vit(x)[0], host(x)[0], atol=1e-5, rtol=1e-5)


def test_masked_output_equals_the_reference(vit, authors_cae, draw_mask):
    reference = authors_cae(dim=48, depth=3, heads=4, grid=(3, 5), patch=8).encoder
    for theirs, ours in zip(reference.blocks, vit.layers, strict=True):
        theirs.mlp.fc1, theirs.mlp.fc2 = ours.ffn.layers[0][0], ours.ffn.layers[1]
        theirs.norm1, theirs.norm2, theirs.gamma_1, theirs.gamma_2 = ours.ln1, ours.ln2, ours.gamma_1, ours.gamma_2
        theirs.attn.load_state_dict(ours.attn.state_dict())
    reference.cls_token, reference.patch_embed.proj, reference.norm = vit.cls_token, vit.patch_embed.projection, vit.ln1
    x, mask = torch.randn(2, 3, 24, 40), draw_mask(2, 15, 6)
    torch.testing.assert_close(vit(x, mask), reference(x, mask), atol=1e-5, rtol=1e-5)


def test_position_table_is_right_before_and_after_init(reference_sincos):
    model = CAEViT(**TINY)
    expected = reference_sincos(3, 5, 48)
    torch.testing.assert_close(model.pos_embed.data, expected, atol=1e-5, rtol=0)
    model.init_weights()
    torch.testing.assert_close(model.pos_embed.data, expected, atol=1e-5, rtol=0)
    assert not model.pos_embed.requires_grad


def test_start_values_are_the_authors():
    model = CAEViT(**TINY)
    model.init_weights()
    assert model.patch_embed.projection.weight.abs().max() <= 0.02 + 1e-6
    assert 0 < model.cls_token.abs().max() <= 0.02 + 1e-6
    for layer in model.layers:
        bound = (6 / (48 + 96)) ** 0.5
        assert layer.ffn.layers[1].weight.abs().max() <= bound
        assert layer.ffn.layers[1].weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert not layer.ffn.layers[1].bias.any() and not layer.attn.q_bias.any()


def test_rescaled_start_values():
    plain, rescaled = CAEViT(**TINY), CAEViT(**TINY, rescale_init=True)
    for model in (plain, rescaled):
        torch.manual_seed(0)
        model.init_weights()
    for depth, (one, other) in enumerate(zip(plain.layers, rescaled.layers, strict=True), start=1):
        torch.testing.assert_close(one.attn.proj.weight / (2 * depth) ** 0.5, other.attn.proj.weight)
        torch.testing.assert_close(one.ffn.layers[1].weight / (2 * depth) ** 0.5, other.ffn.layers[1].weight)
        assert torch.equal(one.attn.qkv.weight, other.attn.qkv.weight)


def test_all_weights_get_a_gradient(vit, draw_mask):
    vit(torch.randn(2, 3, 24, 40), draw_mask(2, 15, 7)).square().sum().backward()
    assert [name for name, parameter in vit.named_parameters() if parameter.grad is None] == ['pos_embed']


@pytest.mark.parametrize(('source', 'target'), [((3, 5), (5, 3)), ((3, 5), (6, 10)), ((4, 4), (3, 5))], ids=str)
def test_checkpoint_of_another_grid(source, target):
    def model(grid):
        return CAEViT(**{**TINY, 'img_size': (grid[0] * 8, grid[1] * 8)})

    other = model(target)
    other.load_state_dict(model(source).state_dict())
    rows = other.pos_embed.data[0, 1:].unflatten(0, target)
    corner = model(source).pos_embed.data[0, 1:].unflatten(0, source)[0, 0]
    assert torch.isfinite(rows).all() and not torch.equal(rows[0, 0], rows[-1, -1])
    assert (rows[0, 0] - corner).abs().max() < 0.5  # the same corner, moved by less than a patch
    # Left to right changes what belongs to the column only: the second half of the channels.
    assert (rows[0, 0] - rows[0, -1])[:24].abs().max() < 0.1 < (rows[0, 0] - rows[0, -1])[24:].abs().max()


def test_learned_tables_must_be_square_or_its_own(vit):
    state = {**vit.state_dict(), 'pos_embed': torch.randn(1, 1 + 15, 48)}
    vit.load_state_dict(state)
    assert torch.equal(vit.pos_embed, state['pos_embed'])
    other = CAEViT(**{**TINY, 'img_size': (48, 48)})
    with pytest.raises(ValueError, match='15 patches is neither a sine-cosine table nor square'):
        other.load_state_dict(vit.state_dict())


@pytest.mark.parametrize('grid', [(4, 7), (4, 9)], ids=['not a square', 'as many patches as a square'])
def test_a_table_that_was_resized_is_kept(grid):
    probe = CAEViT(**{**TINY, 'img_size': (8 * grid[0], 8 * grid[1])})
    probe.load_state_dict(CAEViT(**{**TINY, 'img_size': 48}).state_dict())
    assert not is_sincos(probe.pos_embed, grid)
    again = CAEViT(**{**TINY, 'img_size': (8 * grid[0], 8 * grid[1])})
    again.load_state_dict(probe.state_dict())
    assert torch.equal(again.pos_embed, probe.pos_embed)


@pytest.mark.parametrize(
    ('out_type', 'shape'),
    [('raw', (2, 16, 48)), ('cls_token', (2, 48)), ('featmap', (2, 48, 3, 5)), ('avg_featmap', (2, 48))],
)
def test_without_mask_it_is_a_backbone(out_type, shape):
    model = CAEViT(**TINY, out_type=out_type, out_indices=(1, -1))
    outs = model(torch.randn(2, 3, 24, 40))
    assert model.out_indices == [1, 2] and [tuple(out.shape) for out in outs] == [shape] * 2


def test_other_sizes_without_mask(vit):
    assert vit(torch.randn(1, 3, 48, 32))[0].shape == (1, 1 + 24, 48)


def test_registered_name_builds():
    init_default_scope('mmpretrain')
    from mmpretrain.registry import MODELS

    assert MODELS.build(dict(type='CAEViT', **TINY, frozen_stages=3)).ln1.weight.requires_grad is False


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(img_size=(24, 41)), r'\(8, 8\) do not divide an image of \(24, 41\)'),
        (dict(arch='giant'), "unknown arch 'giant'"),
        (dict(out_indices=3), r'out_indices=\[3\] of a model with 3 layers'),
        (dict(frozen_stages=24), r'frozen_stages=24 is not in -1 … 3'),
        (dict(frozen_stages=-2), r'frozen_stages=-2 is not in -1 … 3'),
    ],
    ids=['image size', 'arch', 'index', 'frozen', 'frozen below'],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        CAEViT(**{**TINY, **change})


@pytest.mark.parametrize(
    ('ours', 'theirs', 'text'), [(0.1, None, 'no LayerScale.*=None'), (None, 0.1, 'have LayerScale.*0.1')]
)
def test_weights_that_are_scaled_otherwise(ours, theirs, text):
    model, other = (CAEViT(**TINY, layer_scale_init_value=value) for value in (ours, theirs))
    with pytest.raises(ValueError, match=text):
        model.load_state_dict(other.state_dict(), strict=False)


def test_relative_positions_are_for_whole_images(draw_mask):
    model = CAEViT(**TINY, use_rel_pos_bias=True)
    with pytest.raises(ValueError, match='no meaning where patches are left out'):
        model(torch.randn(1, 3, 24, 40), draw_mask(1, 15, 5))


def test_frozen_layers_stay_in_evaluation_mode():
    model = CAEViT(**TINY, frozen_stages=2, drop_path_rate=0.5)
    assert model.train() is model
    assert [layer.training for layer in model.layers] == [False, False, True] and model.ln1.training
    assert not model.layers[1].drop_path.training


def test_masked_images_need_the_right_grid(vit, draw_mask):
    with pytest.raises(ValueError, match=r'\(24, 40\) \(height, width\); got \(40, 24\)'):
        vit(torch.randn(1, 3, 40, 24), draw_mask(1, 15, 5))
    with pytest.raises(ValueError, match='mask of shape'):
        vit(torch.randn(1, 3, 24, 40), draw_mask(1, 12, 5))
