"""The encoder for fine-tuning: what it starts from, images of any size, learning rates by depth."""

import pytest
import torch
from mmpretrain.models.backbones import BEiTViT
from mmpretrain.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS

from mmplugins.cae import CAEViT
from mmplugins.cae.relative_position import resize_bias_table
from mmplugins.cae.transfer.finetune_vit import CAEFinetuneViT

ARCH = dict(embed_dims=48, num_layers=3, num_heads=4, feedforward_channels=192)


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    for name, parameter in model.named_parameters():
        if name != 'pos_embed':
            torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    return model


def test_starts_from_the_features_of_the_pretraining():
    pretrained = randomized(CAEViT(ARCH, 32, 8))
    model = CAEFinetuneViT(ARCH, 32, patch_size=8, out_type='raw', final_norm=True)
    model.init_weights()
    result = model.load_state_dict(pretrained.state_dict(), strict=False)
    assert all(name.endswith('relative_position_bias_table') for name in result.missing_keys)
    model.eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images)[0], pretrained(images)[0], atol=1e-5, rtol=0)


def test_pooled_tokens_get_the_final_norm_of_the_pretraining():
    pretrained = randomized(CAEViT(ARCH, 32, 8, final_norm=False))  # the tokens before it
    weights = {**pretrained.state_dict(), 'ln1.weight': torch.rand(48), 'ln1.bias': torch.rand(48)}
    model = CAEFinetuneViT(ARCH, 32, patch_size=8)
    assert model.load_state_dict(dict(weights), strict=False).unexpected_keys == []
    model.eval()
    images = torch.randn(2, 3, 32, 32)
    mean = pretrained(images)[0][:, 1:].mean(1)
    expected = torch.nn.functional.layer_norm(mean, (48,), weights['ln1.weight'], weights['ln1.bias'], 1e-6)
    torch.testing.assert_close(model(images)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('img_size', [32, (24, 40)], ids=['square', 'not square'])
def test_equals_the_host_with_a_bias_table(img_size):
    host = randomized(BEiTViT(ARCH, img_size, 8, use_abs_pos_emb=True, out_type='featmap'))
    model = CAEFinetuneViT(ARCH, img_size, patch_size=8, out_type='featmap')
    host.pos_embed.data = model.pos_embed.data.clone()
    assert model.load_state_dict(host.state_dict(), strict=False).missing_keys == []
    model.eval()
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    images = torch.randn(2, 3, *size)
    torch.testing.assert_close(model(images)[0], host(images)[0], atol=1e-5, rtol=0)


def test_dropout_and_bias_of_the_keys_are_those_of_the_config():
    model = randomized(CAEFinetuneViT(ARCH, 32, patch_size=8, bias=True, layer_cfgs=dict(attn_drop_rate=0.5)))
    images = torch.randn(2, 3, 32, 32)
    assert all(layer.attn.qkv.bias is not None for layer in model.layers)
    torch.testing.assert_close(model(images)[0], model(images)[0], rtol=0, atol=0)
    model.train()
    assert not torch.allclose(model(images)[0], model(images)[0])


@pytest.mark.parametrize('pos_resize', ['bicubic', 'rebuild'])
@pytest.mark.parametrize('size', [(40, 24), (33, 50), (16, 8)], ids=str)
def test_images_of_any_size(pos_resize, size):
    model = CAEFinetuneViT(ARCH, 32, patch_size=8, out_type='featmap', pos_resize=pos_resize)
    randomized(model)
    (out,) = model(torch.randn(2, 3, *size))
    assert out.shape == (2, 48, -(-size[0] // 8), -(-size[1] // 8))
    out.square().mean().backward()
    table = model.layers[0].attn.relative_position_bias_table
    assert table.grad.abs().sum() > 0


def test_rebuilt_position_table_is_that_of_the_grid(reference_sincos):
    model = CAEFinetuneViT(ARCH, 32, patch_size=8, pos_resize='rebuild')
    torch.testing.assert_close(model.position_table((3, 5)), reference_sincos(3, 5, 48), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.position_table((4, 4)), reference_sincos(4, 4, 48), atol=1e-6, rtol=0)


@pytest.mark.parametrize('size', [32, 48], ids=['same grid', 'another grid'])
def test_rebuilding_would_throw_a_learned_table_away(reference_sincos, size):
    model = CAEFinetuneViT(ARCH, size, patch_size=8, pos_resize='rebuild', use_rel_pos_bias=False)
    source = CAEFinetuneViT(ARCH, 32, patch_size=8, use_rel_pos_bias=False)
    model.load_state_dict(source.state_dict())
    torch.testing.assert_close(model.pos_embed.data, reference_sincos(size // 8, size // 8, 48), atol=1e-6, rtol=0)
    for table in (torch.randn(1, 17, 48), torch.zeros(1, 17, 48)):  # as timm's and BEiT's
        source.pos_embed.data = table
        with pytest.raises(ValueError, match="pos_embed of the weights is no such table: set pos_resize='bicubic'"):
            model.load_state_dict(source.state_dict())


def test_bias_of_another_grid_is_resized_when_loaded():
    source = randomized(CAEFinetuneViT(ARCH, 32, patch_size=8))
    model = CAEFinetuneViT(ARCH, (48, 24), patch_size=8)
    assert model.load_state_dict(source.state_dict()).missing_keys == []
    found = model.layers[2].attn.relative_position_bias_table
    expected = resize_bias_table(source.layers[2].attn.relative_position_bias_table, (4, 4), (6, 3))
    torch.testing.assert_close(found, expected)
    other = CAEFinetuneViT(ARCH, (48, 24), patch_size=8)
    other.load_state_dict(model.state_dict())  # a table that was resized once is kept
    assert torch.equal(other.pos_embed, model.pos_embed)
    with pytest.raises(ValueError, match='nor square'):
        CAEFinetuneViT(ARCH, 32, patch_size=8).load_state_dict(model.state_dict())


def test_half_precision_and_checkpointing_agree():
    model = randomized(CAEFinetuneViT(ARCH, 32, patch_size=8))
    again = CAEFinetuneViT(ARCH, 32, patch_size=8, with_cp=True)
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)[0]
    expected.sum().backward()
    again(images)[0].sum().backward()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)
    with torch.autocast('cpu', torch.bfloat16):
        half = model(images)[0]
    assert (half.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_only_the_position_table_is_fixed():
    model = CAEFinetuneViT(ARCH, 32, patch_size=8)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ['pos_embed']


def test_wrong_way_to_resize_is_told():
    with pytest.raises(ValueError, match="pos_resize is 'bicubic' or 'rebuild', not 'nearest'"):
        CAEFinetuneViT(ARCH, 32, patch_size=8, pos_resize='nearest')


BACKBONE = dict(type='mmpretrain.CAEFinetuneViT', arch=ARCH, img_size=32, patch_size=8)
CLASSIFIER = dict(
    type='mmpretrain.ImageClassifier',
    backbone=BACKBONE,
    head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=48),
)


class Detector(torch.nn.Module):
    """Stands for a model of mmdet or mmseg: a backbone and the rest, and no method that tells depths."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MODELS.build(BACKBONE)
        self.head = torch.nn.Linear(48, 3)


@pytest.mark.parametrize('name', ['LearningRateDecay', 'BackboneLayerDecay'])
def test_learning_rate_and_decay_by_depth(name):
    model = MODELS.build(CLASSIFIER) if name == 'LearningRateDecay' else Detector()
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type=f'mmpretrain.{name}OptimWrapperConstructor',
            optim_wrapper_cfg=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.5)),
            paramwise_cfg=dict(
                layer_decay_rate=0.5,
                norm_decay_mult=0.0,
                bias_decay_mult=0.0,
                flat_decay_mult=0.0,
                custom_keys={'.cls_token': dict(decay_mult=0.0)},
            ),
        )
    )
    groups = {group['param_name']: group for group in constructor(model).optimizer.param_groups}
    assert 'backbone.pos_embed' not in groups
    assert len(groups) == sum(p.requires_grad for p in model.parameters())
    for name, group in groups.items():
        # Patches and class token are depth 0, blocks 1 to 3, the rest 4.
        depth = 4
        if name.startswith('backbone.layers.'):
            depth = 1 + int(name.split('.')[2])
        elif name.startswith(('backbone.patch_embed', 'backbone.cls_token')):
            depth = 0
        assert group['lr'] == 0.5 ** (4 - depth), name
        flat = group['params'][0].ndim == 1 or 'cls_token' in name
        assert group['weight_decay'] == (0 if flat else 0.5), name
