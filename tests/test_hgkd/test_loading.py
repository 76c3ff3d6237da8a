import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from mmplugins.hgkd.teachers.loading import RESIZED, brings_weights, build_teacher, fingerprint
from mmplugins.utils.weights import load_strictly

WEIGHTS = {'0.weight': torch.randn(2, 3), '0.bias': torch.randn(2)}
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
TEACHER = dict(type='MAEViT', arch=ARCH, img_size=64, patch_size=16)


def test_half_precision_fills_a_float32_module():
    module = nn.Sequential(nn.Linear(3, 2))
    load_strictly(module, {key: value.half() for key, value in WEIGHTS.items()}, 'file')
    assert module[0].weight.dtype == torch.float32
    torch.testing.assert_close(module[0].weight.data, WEIGHTS['0.weight'], rtol=1e-3, atol=1e-3)


def test_given_prefix():
    module = nn.Sequential(nn.Linear(3, 2))
    load_strictly(module, {f'ema.{key}': value for key, value in WEIGHTS.items()}, 'file', prefix='ema.')
    assert torch.equal(module[0].bias.data, WEIGHTS['0.bias'])
    with pytest.raises(ValueError, match='2 weights differ'):
        load_strictly(module, dict(WEIGHTS), 'file', prefix='x.')


def test_position_embedding_is_resized_as_the_host_does(make_vit):
    large, small = make_vit(img_size=96), make_vit(img_size=64)
    load_strictly(small, large.state_dict(), 'file', resized=RESIZED)
    assert small.pos_embed.shape == (1, 17, 32)
    assert torch.equal(small.pos_embed[:, 0], large.pos_embed[:, 0])


def test_init_cfg_of_the_teacher(make_vit, tmp_path):
    torch.save(make_vit().state_dict(), tmp_path / 'x.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'))
    assert fingerprint(build_teacher(dict(TEACHER, init_cfg=init_cfg))) == fingerprint(make_vit())


def test_init_cfg_with_prefix(make_vit, tmp_path):
    torch.save({f'student.{key}': value for key, value in make_vit().state_dict().items()}, tmp_path / 'x.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'), prefix='student')
    assert fingerprint(build_teacher(dict(TEACHER, init_cfg=init_cfg))) == fingerprint(make_vit())


@pytest.mark.parametrize('prefix', ['backbone.', 'module.backbone.'])
def test_weights_of_a_whole_model(make_vit, tmp_path, prefix):
    weights = {prefix + key: value for key, value in make_vit().state_dict().items()}
    torch.save(dict(state_dict={**weights, 'neck.x': torch.zeros(1)}), tmp_path / 'whole.pth')
    assert fingerprint(build_teacher(TEACHER, str(tmp_path / 'whole.pth'))) == fingerprint(make_vit())


def test_fingerprint_is_of_the_weights(make_vit):
    vit = make_vit()
    before = fingerprint(vit)
    assert before == fingerprint(make_vit()) and len(before) == 64
    vit.layers[1].ln1.bias.data[0] += 1e-6
    assert fingerprint(vit) != before
    assert fingerprint(make_vit().bfloat16()) != before


def test_swin_v2_takes_its_own_weights(tmp_path):
    """It drops tables from what it loads, which it has computed itself."""
    arch = dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], extra_norm_every_n_blocks=0)
    cfg = dict(type='SwinTransformerV2', arch=arch, img_size=64, window_size=[4, 4, 4, 2])
    swin = MODELS.build(cfg)
    torch.save(swin.state_dict(), tmp_path / 'swin.pth')
    assert fingerprint(build_teacher(cfg, str(tmp_path / 'swin.pth'))) == fingerprint(swin)


@pytest.mark.parametrize(
    ('cfg', 'own'),
    [
        (dict(type='timm.create_model', pretrained=True), True),
        (dict(type='timm.create_model', pretrained=False), False),
        (dict(type='torchvision.models.swin_t', weights='DEFAULT'), True),
        (dict(type='torchvision.models.swin_t', weights=None), False),
        (dict(type='transformers.Dinov2Model.from_pretrained'), True),
        (dict(type='mmpretrain.CLIPGenerator'), True),
        (dict(type='MAEViT'), False),
    ],
)
def test_whose_weights_are_their_own(cfg, own):
    assert brings_weights(cfg, nn.Identity()) is own


def test_random_weights_of_a_library_are_no_teacher():
    pytest.importorskip('timm')
    with pytest.raises(ValueError, match='random weights.*pretrained=True'):
        build_teacher(dict(type='timm.create_model', model_name='vit_tiny_patch16_224', depth=1, embed_dim=48))


def test_own_weights_of_transformers(tmp_path):
    """From a folder, without a class of ours."""
    transformers = pytest.importorskip('transformers')
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=64)
    vit = transformers.ViTModel(transformers.ViTConfig(**sizes))
    vit.save_pretrained(tmp_path)
    cfg = dict(type='transformers.ViTModel.from_pretrained', pretrained_model_name_or_path=str(tmp_path))
    assert fingerprint(build_teacher(cfg)) == fingerprint(vit)
