"""Frozen image encoders as targets."""

import pytest
import torch
from mmpretrain.models.utils.clip_generator_helper import VisionTransformer

from mmplugins.cae.targets.frozen import CLIPVisionTarget, FrozenFeatureTarget
from mmplugins.utils.encoders import grid_of

SMALL_CLIP = dict(input_resolution=32, patch_size=8, width=64, layers=2, heads=2, output_dim=20)
VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
    img_size=32,
    patch_size=8,
    out_type='raw',
)


@pytest.fixture
def clip():
    """The host's image tower with weights of its own, and their state dict with the names of OpenAI's files."""
    tower = VisionTransformer(**SMALL_CLIP).eval()
    state = {f'visual.{name}': value for name, value in tower.state_dict().items()}
    return tower, {**state, 'text_projection': torch.zeros(3), 'logit_scale': torch.zeros(())}


def pretrained(path, **kwargs):
    return dict(init_cfg=dict(type='Pretrained', checkpoint=str(path)), **kwargs)


@pytest.mark.parametrize('wrapped', [False, True], ids=['plain', 'state_dict'])
def test_clip_equals_the_hosts_tower(clip, tmp_path, wrapped):
    tower, state = clip
    torch.save({'state_dict': state} if wrapped else state, tmp_path / 'clip.pth')
    target = CLIPVisionTarget(**pretrained(tmp_path / 'clip.pth', activation='quick_gelu', arch=SMALL_CLIP))
    target.init_weights()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(target(images), tower(images)[0], atol=1e-5, rtol=1e-5)
    assert target(images).shape == (2, 17, 20)
    assert sum(p.numel() for p in target.parameters()) == sum(p.numel() for p in tower.parameters())  # no text tower


class AsScript(torch.nn.Module):
    def __init__(self, tower):
        super().__init__()
        self.visual = tower

    def forward(self, x):
        return x


def test_torchscript_archives_are_read(clip, tmp_path):
    tower, _ = clip
    torch.jit.trace(AsScript(tower), torch.zeros(1)).save(str(tmp_path / 'ViT.pt'))  # as OpenAI's files are
    target = CLIPVisionTarget(**pretrained(tmp_path / 'ViT.pt', arch=SMALL_CLIP))
    target.init_weights()
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(target(images), tower(images)[0], atol=1e-5, rtol=1e-5)


def test_clip_at_another_resolution(clip):
    target = CLIPVisionTarget(SMALL_CLIP, resolution=(24, 48))
    assert target(torch.randn(1, 3, 24, 48)).shape == (1, 1 + 18, 20)
    with pytest.raises(ValueError, match=r'images of \(32, 32\) pixels .* resolution=\(24, 48\)'):
        target(torch.randn(1, 3, 32, 32))


def test_patches_of_14_at_196_fit_a_grid_of_14():
    with torch.device('meta'):
        target = CLIPVisionTarget('ViT-L/14', resolution=196)
        assert target(torch.empty(1, 3, 196, 196)).shape == (1, 197, 768)


def test_file_of_another_size(clip, tmp_path):
    torch.save(clip[1], tmp_path / 'clip.pth')
    target = CLIPVisionTarget(
        **pretrained(tmp_path / 'clip.pth', activation='quick_gelu', arch={**SMALL_CLIP, 'width': 32})
    )
    with pytest.raises(ValueError, match=r'clip.pth, read as CLIP .* does not fit CLIPTower: \d+ weights differ'):
        target.init_weights()


def test_file_of_something_else(tmp_path):
    torch.save({'conv.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    target = CLIPVisionTarget(**pretrained(tmp_path / 'other.pth', activation='quick_gelu', arch=SMALL_CLIP))
    with pytest.raises(ValueError, match='class_embedding: .* expected, nothing found'):
        target.init_weights()


def test_bad_clip_arguments():
    with pytest.raises(ValueError, match="arch='ViT-H/14'"):
        CLIPVisionTarget('ViT-H/14')
    with pytest.raises(ValueError, match='patches of 8 pixels do not divide'):
        CLIPVisionTarget(SMALL_CLIP, resolution=30)


def test_vit_of_mmpretrain():
    target, images = FrozenFeatureTarget(VIT), torch.randn(2, 3, 32, 32)
    target.init_weights()
    assert torch.equal(target(images), target.backbone(images)[-1])
    assert not target.train().backbone.training and not any(p.requires_grad for p in target.parameters())


def test_grid_of_the_student():
    target = FrozenFeatureTarget(VIT, grid_size=(2, 4))
    out = target(torch.randn(2, 3, 32, 64))  # 4 x 8 patches, resized
    tokens = target.backbone(torch.randn(2, 3, 32, 64))[-1]
    assert out.shape == (2, 1 + 8, 32) and tokens.shape == (2, 1 + 32, 32)
    constant = torch.nn.Module()
    constant.num_extra_tokens, constant.forward = 1, lambda x: (torch.ones(len(x), 33, 5),)
    target.backbone = constant
    torch.testing.assert_close(target(torch.randn(2, 3, 32, 64)), torch.ones(2, 9, 5))


def test_feature_maps_of_a_cnn():
    target = FrozenFeatureTarget(dict(type='mmpretrain.ResNet', depth=18, base_channels=8), grid_size=(2, 3))
    images = torch.randn(2, 3, 64, 96)
    out = target(images)
    expected = target.backbone(images)[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(out[:, 1:], expected)
    torch.testing.assert_close(out[:, 0], expected.mean(1))


def test_backbone_of_timm():
    pytest.importorskip('timm')
    backbone = dict(type='mmpretrain.TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=64, depth=1)
    assert FrozenFeatureTarget(backbone, grid_size=(8, 8))(torch.randn(1, 3, 64, 64)).shape == (1, 65, 192)


def test_pretrained_file_must_be_complete(tmp_path):
    source = FrozenFeatureTarget(VIT)
    source.init_weights()
    torch.save({'state_dict': source.state_dict()}, tmp_path / 'teacher.pth')
    target = FrozenFeatureTarget(**pretrained(tmp_path / 'teacher.pth', backbone=VIT))
    target.init_weights()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(target(images), source(images))
    state = source.backbone.state_dict()
    del state['layers.1.attn.qkv.weight']
    torch.save(state, tmp_path / 'less.pth')
    target = FrozenFeatureTarget(**pretrained(tmp_path / 'less.pth', backbone=VIT))
    with pytest.raises(ValueError, match=r'1 weights differ \(layers.1.attn.qkv.weight'):
        target.init_weights()


def test_pooled_features_are_no_target():
    with pytest.raises(ValueError, match='neither tokens .* nor a feature map'):
        FrozenFeatureTarget({**VIT, 'out_type': 'cls_token'})(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    ('patches', 'size', 'grid'), [(196, (224, 224), (14, 14)), (15, (24, 40), (3, 5)), (1, (9, 9), (1, 1))], ids=str
)
def test_grid_has_the_shape_of_the_image(patches, size, grid):
    assert grid_of(patches, size) == grid


@pytest.mark.parametrize(('patches', 'size'), [(15, (32, 32)), (16, (24, 40))], ids=str)
def test_grid_that_does_not_exist(patches, size):
    with pytest.raises(ValueError, match='do not make a grid'):
        grid_of(patches, size)
