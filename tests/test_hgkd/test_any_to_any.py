"""Teachers of four libraries before students of three hosts: the place of a patch, a step, and the checkpoint."""

from types import SimpleNamespace

import pytest
import torch
import torchvision
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmplugins.hgkd import GenerativeDistillHook, distilled_model
from mmplugins.hgkd.taps import Taps
from mmplugins.hgkd.teachers.loading import fingerprint
from mmplugins.hgkd.teachers.probe import check_teacher, noise_image
from mmplugins.hgkd.teachers.provider import TeacherProvider

SIDE = 64
VIT = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


def of_mmpretrain(type: str, **options):
    return lambda: MODELS.build(dict(type=f'mmpretrain.{type}', **options))


def vit(type: str, **options):
    return of_mmpretrain(type, arch=dict(VIT), img_size=SIDE, patch_size=16, **options)


def of_timm(name: str, **options):
    return lambda: pytest.importorskip('timm').create_model(name, **options)


def of_torchvision(name: str, **options):
    return lambda: getattr(torchvision.models, name)(**options)


def of_transformers(name: str, **options):
    def make():
        library = pytest.importorskip('transformers')
        config = getattr(library, f'{name.removesuffix("Model")}Config')
        return getattr(library, name)(config(**options))

    return make


HF = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=SIDE)
SWIN = dict(embed_dim=16, depths=(1, 1), num_heads=(1, 2))
# Name: network, tap, channels and stride of its map.
TEACHERS = {
    'MAEViT': (vit('MAEViT'), 'layers.1', 32, 16),
    'VisionTransformer': (vit('VisionTransformer'), 'layers.1', 32, 16),
    'DeiT': (vit('DistilledVisionTransformer'), 'layers.1', 32, 16),
    'BEiTViT': (vit('BEiTViT'), 'layers.1', 32, 16),
    'BEiTPretrainViT': (vit('BEiTPretrainViT'), 'layers.1', 32, 16),
    'CAEPretrainViT': (vit('CAEPretrainViT', layer_scale_init_value=0.1), 'layers.1', 32, 16),
    'SwinTransformer': (
        of_mmpretrain('SwinTransformer', arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2]),
                      img_size=SIDE, window_size=4, pad_small_map=True),
        'stages.2.blocks.0', 64, 16,
    ),
    'SwinTransformerV2': (
        of_mmpretrain('SwinTransformerV2', arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2],
                      extra_norm_every_n_blocks=0), img_size=SIDE, window_size=[4, 4, 4, 2]),
        'stages.2.blocks.0', 64, 16,
    ),
    'MixMIMTransformer': (
        of_mmpretrain('MixMIMTransformer', arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2]),
                      img_size=SIDE, window_size=[4, 4, 4, 2]),
        'layers.2', 128, 32,
    ),
    'ViTSAM': (
        of_mmpretrain('ViTSAM', arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64,
                      global_attn_indexes=[1]), img_size=SIDE, patch_size=16, out_channels=16, window_size=2),
        'layers.1', 32, 16,
    ),
    'ConvNeXt': (
        of_mmpretrain('ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32])), 'stages.2', 24, 16),
    'ResNet': (of_mmpretrain('ResNet', depth=18, base_channels=8, stem_channels=8), 'layer3', 32, 16),
    'timm ViT with registers': (
        of_timm('vit_tiny_patch16_224', embed_dim=32, depth=2, num_heads=2, reg_tokens=4), 'blocks.1', 32, 16),
    'timm EVA': (
        of_timm('eva02_tiny_patch14_224', img_size=SIDE, embed_dim=48, depth=2, num_heads=3, patch_size=16),
        'blocks.1', 48, 16,
    ),
    'timm Swin': (of_timm('swin_tiny_patch4_window7_224', img_size=SIDE, window_size=4, **SWIN), 'layers.1', 32, 8),
    'timm SwinV2': (of_timm('swinv2_tiny_window8_256', img_size=SIDE, window_size=4, **SWIN), 'layers.1', 32, 8),
    'timm Hiera': (
        of_timm('hiera_tiny_224', img_size=(SIDE, SIDE), embed_dim=16, stages=(1, 1, 1, 1)), 'blocks.3', 128, 32),
    'timm ConvNeXt': (of_timm('convnext_atto', depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)), 'stages.2', 24, 16),
    'timm PVTv2': (of_timm('pvt_v2_b0', depths=(1, 1, 1, 1), embed_dims=(8, 16, 40, 64)), 'stages.2', 40, 16),
    'torchvision ViT': (
        lambda: torchvision.models.VisionTransformer(SIDE, 16, 2, 2, hidden_dim=32, mlp_dim=64), 'encoder.ln', 32, 16),
    'torchvision Swin': (
        lambda: torchvision.models.SwinTransformer([4, 4], 16, [1, 1, 1], [1, 2, 2], [4, 4]), 'features.5', 64, 16),
    'torchvision MobileNetV3': (of_torchvision('mobilenet_v3_small'), 'features.11', 96, 32),
    'transformers ViT': (of_transformers('ViTModel', **HF), 'layernorm', 32, 16),
    'transformers DINOv2': (of_transformers('Dinov2Model', patch_size=16, mlp_ratio=2, **HF), 'layernorm', 32, 16),
    'transformers CLIP': (
        of_transformers('CLIPVisionModel', patch_size=16, **HF), 'vision_model.encoder.layers.1', 32, 16),
    'transformers Swin': (of_transformers('SwinModel', image_size=SIDE, window_size=4, **SWIN), 'layernorm', 32, 8),
}  # fmt: skip


def classifier(**backbone):
    head = dict(type='LinearClsHead', num_classes=4, in_channels=32)
    return dict(type='mmpretrain.ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)


RESNET = dict(type='ResNet', depth=18, norm_cfg=dict(type='BN'))
STUDENTS = {
    'MobileNetV2': (classifier(type='MobileNetV2', widen_factor=0.1), {'backbone.layer4': 8}),
    'ResNet': (classifier(**RESNET, base_channels=8, stem_channels=8, out_indices=(3,)), {'backbone.layer3': 32}),
    'ViT': (
        classifier(type='VisionTransformer', arch=VIT, img_size=SIDE, patch_size=16, out_type='featmap'),
        {'backbone.layers.1': 32},
    ),
    'timm in mmpretrain': (
        classifier(type='TIMMBackbone', model_name='mobilenetv3_small_050', features_only=True),
        {'backbone.timm_model.blocks.3': 24},
    ),
    'mmdet RetinaNet': (
        dict(
            type='mmdet.RetinaNet',
            backbone=dict(**RESNET, base_channels=8, stem_channels=8),
            neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
            bbox_head=dict(
                type='RetinaHead', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1,
                anchor_generator=dict(
                    type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
                    strides=[8, 16, 32, 64, 128],
                ),
            ),
        ),
        {'neck[1]': 16},
    ),
    'mmseg FCN': (
        dict(
            type='mmseg.EncoderDecoder',
            backbone=dict(**RESNET, base_channels=8, stem_channels=8),
            decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_classes=3, num_convs=1),
            train_cfg=dict(), test_cfg=dict(mode='whole'),
        ),
        {'backbone[2]': 32},
    ),
}  # fmt: skip


@pytest.fixture(scope='module')
def teachers():
    """Networks that were built, by name, with their targets' provider."""
    return {}


def provider_of(teachers: dict, name: str) -> TeacherProvider:
    if name not in teachers:
        init_default_scope('mmpretrain')
        make, tap, _, _ = TEACHERS[name]
        torch.manual_seed(0)
        teachers[name] = TeacherProvider(make(), [tap])
    return teachers[name]


@pytest.mark.parametrize('name', TEACHERS)
def test_map_of_a_teacher(name, teachers):
    """Channels, grid, and the place of a lit patch."""
    _, _, channels, stride = TEACHERS[name]
    (target,) = check_teacher(provider_of(teachers, name), noise_image(3, (SIDE, SIDE)))
    assert target.shape == (1, channels, SIDE // stride, SIDE // stride)


@pytest.mark.slow
@pytest.mark.parametrize('student', STUDENTS)
def test_each_student_learns_from_each_teacher(student, teachers):
    """A step changes the student, not the teacher, and its state dict holds the student only."""
    host = STUDENTS[student][0]['type'].partition('.')[0]
    pytest.importorskip(host)
    images = noise_image(3, (SIDE, SIDE))
    for name in TEACHERS:
        provider = provider_of(teachers, name)
        init_default_scope(host)
        torch.manual_seed(0)
        cfg, taps = STUDENTS[student]
        model = distilled_model(cfg, taps, [TEACHERS[name][2]], input_size=SIDE)
        hook = GenerativeDistillHook(provider.teacher, taps=provider.taps)
        hook.before_train(SimpleNamespace(model=model))
        before, sha = model.distiller.projectors[0].weight.clone(), fingerprint(provider.teacher)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        predictions = [*model.distiller.project(features_of(model, images), (SIDE, SIDE), model.backbone).values()]
        (loss,) = model.distiller(predictions, model.teacher.maps(images)).values()
        loss.backward()
        optimizer.step()
        assert not torch.equal(before, model.distiller.projectors[0].weight), name
        assert next(model.backbone.parameters()).grad.abs().sum() > 0, name
        assert fingerprint(provider.teacher) == sha and not any(p.requires_grad for p in provider.teacher.parameters())
        plain = {key for key in model.state_dict() if not key.startswith('distiller.')}
        assert plain == set(MODELS.build(cfg).state_dict()), name


def features_of(model: nn.Module, images: torch.Tensor) -> dict:
    """Outputs of the taps, with their gradients."""
    with Taps(model, model.distiller.student_taps, 'student').listen() as features:
        model.extract_feat(images)
    return features
