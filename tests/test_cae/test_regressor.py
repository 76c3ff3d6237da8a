"""Regressor, decoder and read-out."""

import pytest
import torch
from mmpretrain.models.necks import CAENeck

from mmplugins.cae.regressor import CAERegressorNeck
from mmplugins.cae.tokens import sincos_table, split_places, tokens_at

SIZES = dict(num_classes=20, embed_dims=48, grid_size=(3, 5), regressor_depth=3, decoder_depth=2, num_heads=4)


@pytest.fixture
def neck():
    model = CAERegressorNeck(**SIZES)
    model.init_weights()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.mark.parametrize('masked', [1, 6, 14])
def test_any_number_of_masked_tokens(neck, draw_mask, masked):
    latents, pred = neck(torch.randn(2, 1 + 15 - masked, 48), draw_mask(2, 15, masked))
    assert latents.shape == (2, masked, 48) and pred.shape == (2, masked, 20)


def test_equals_the_host_where_it_can_be_built(neck, draw_mask):
    host = CAENeck(
        num_classes=20, embed_dims=48, regressor_depth=3, decoder_depth=2, num_heads=4, mask_tokens_num=6,
        layer_scale_init_value=0.1,
    )  # fmt: skip
    state = neck.state_dict()
    del state['pos_embed']
    host.load_state_dict(state)
    tokens, mask = torch.randn(2, 10, 48), draw_mask(2, 15, 6)
    visible_places, masked_places = split_places(mask)
    table = sincos_table((3, 5), 48)[:, 1:]
    pred, latents = host(tokens[:, 1:], tokens_at(table, masked_places), tokens_at(table, visible_places))
    ours = neck(tokens, mask)
    torch.testing.assert_close(ours[0], latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[1], pred, atol=1e-5, rtol=1e-5)


def test_keys_and_values_start_with_the_same_visible_latents_in_each_block(neck, draw_mask):
    seen = []
    for block in neck.regressors:
        block.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    tokens = torch.randn(2, 10, 48)
    neck(tokens, draw_mask(2, 15, 6))
    assert len(seen) == 3
    for union in seen:
        assert union.shape == (2, 15, 48) and torch.equal(union[:, :9], tokens[:, 1:])


def test_values_get_no_position(neck):
    block, seen = neck.regressors[0], {}
    block.cross_attn.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    queries, union, pos_q, pos_k = (torch.randn(1, n, 48) for n in (6, 15, 6, 15))
    block(queries, union, pos_q, pos_k)
    torch.testing.assert_close(seen['v'], block.norm1_v_cross(union))
    torch.testing.assert_close(seen['k'], block.norm1_k_cross(union + pos_k))


def test_decoder_sees_the_visible_tokens_only_through_the_latents(neck, draw_mask, monkeypatch):
    mask, fixed = draw_mask(2, 15, 6), torch.randn(2, 6, 48)
    tokens = torch.randn(2, 10, 48)
    assert not torch.equal(neck(tokens, mask)[1], neck(tokens + 1, mask)[1])
    monkeypatch.setattr(neck, 'regress', lambda *args: fixed)
    assert torch.equal(neck(tokens, mask)[1], neck(tokens + 1, mask)[1])


def test_latents_are_normalized_and_decoding_can_be_left_out(neck, draw_mask):
    tokens, mask = torch.randn(2, 10, 48), draw_mask(2, 15, 6)
    latents, pred = neck(tokens, mask, decode=False)
    assert pred is None
    raw = neck.regress(tokens[:, 1:], split_places(mask))
    torch.testing.assert_close(latents, neck.norm_regressor(raw))


def test_cls_is_not_used(neck, draw_mask):
    tokens, mask = torch.randn(2, 10, 48), draw_mask(2, 15, 6)
    other = torch.cat([torch.randn(2, 1, 48), tokens[:, 1:]], dim=1)
    assert torch.equal(neck(tokens, mask)[1], neck(other, mask)[1])


def test_projection_to_another_width(draw_mask):
    neck = CAERegressorNeck(**{**SIZES, 'embed_dims': 24}, in_channels=48)
    latents, pred = neck(torch.randn(2, 10, 48), draw_mask(2, 15, 6))
    assert latents.shape == (2, 6, 24) and pred.shape == (2, 6, 20)
    assert neck.projection.weight.shape == (24, 48) and neck.norm_projection.weight.shape == (24,)


def test_no_decoder(draw_mask):
    neck = CAERegressorNeck(**{**SIZES, 'decoder_depth': 0})
    neck.init_weights()
    mask = draw_mask(2, 15, 6)
    latents, pred = neck(torch.randn(2, 10, 48), mask)
    moved = latents + tokens_at(neck.pos_embed[:, 1:], split_places(mask)[1])
    torch.testing.assert_close(pred, neck.head(neck.norm_decoder(moved)))


@pytest.mark.parametrize(
    ('part', 'count'), [('regressors', 28_368_384 - 2 * 768), ('decoders', 34_655_744 - 2 * 768 - 769 * 8192)]
)
def test_parameters_of_the_authors_neck(part, count):
    with torch.device('meta'):  # the published counts include a normalization, and the head
        neck = CAERegressorNeck()
    assert sum(parameter.numel() for parameter in getattr(neck, part).parameters()) == count


def test_rescaled_start_values():
    pair = [CAERegressorNeck(**SIZES, rescale_init=rescaled) for rescaled in (False, True)]
    for neck in pair:
        torch.manual_seed(0)
        neck.init_weights()
    for depth in range(3):
        weights = [neck.regressors[depth].cross_attn.proj.weight for neck in pair]
        torch.testing.assert_close(weights[0] / (2 * depth + 2) ** 0.5, weights[1])
    assert torch.equal(pair[0].head.weight, pair[1].head.weight)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(regressor_depth=0), 'regressor_depth=0'),
        (dict(num_heads=5), 'embed_dims=48 is not a multiple of num_heads=5'),
        (dict(embed_dims=50, num_heads=5), 'multiple of 4 channels, got 50'),
    ],
    ids=['depth', 'heads', 'frequencies'],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        CAERegressorNeck(**{**SIZES, **change})


def test_a_file_may_stand_in_a_list(tmp_path):
    neck = CAERegressorNeck(**SIZES)
    torch.save(dict(state_dict=neck.state_dict()), tmp_path / 'neck.pth')
    file = dict(type='Pretrained', checkpoint=str(tmp_path / 'neck.pth'))
    again = CAERegressorNeck(**SIZES, init_cfg=[dict(type='Xavier', layer='Linear'), file])
    again.init_weights()
    for name, value in neck.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
