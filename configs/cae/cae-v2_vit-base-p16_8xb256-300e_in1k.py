# CAE v2, ViT-B/16, ImageNet-1K, target CLIP ViT-B/16. Paper recipe: 8 GPUs x 256 images, 300 epochs. Not run by us.
# Needs OpenAI's ViT-B-16.pt (link in the README of the plugin) where `checkpoint` says.
_base_ = './_base_/pretrain_in1k.py'

model = dict(
    type='CAEv2',
    data_preprocessor=dict(
        type='TwoNormDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        second_mean=[122.771, 116.746, 104.094],  # CLIP's
        second_std=[68.501, 66.632, 70.323],
        to_rgb=True),
    backbone=dict(type='CAEViT', arch='base', img_size=224, patch_size=16, drop_path_rate=0.1),
    neck=dict(
        type='CAERegressorNeck',
        num_classes=512,
        in_channels=768,
        embed_dims=768,
        grid_size=(14, 14),
        regressor_depth=4,
        decoder_depth=0,
        num_heads=12,
        drop_path_rate=0.1),
    head=dict(type='CAEv2Head', supervision='both', with_cls=True),
    target_generator=dict(
        type='CLIPVisionTarget',
        arch='ViT-B/16',
        activation='quick_gelu',
        init_cfg=dict(type='Pretrained', checkpoint='data/clip/ViT-B-16.pt')))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='TwoViewRandomResizedCrop',
        size=224,
        second_size=224,
        interpolation='bicubic',
        second_interpolation='bicubic',
        scale=(0.4, 1.0)),
    dict(type='InclusiveBlockMask', input_size=(14, 14), num_masking_patches=98),
    dict(type='PackInputs')
]
train_dataloader = dict(batch_size=256, dataset=dict(pipeline=train_pipeline))
