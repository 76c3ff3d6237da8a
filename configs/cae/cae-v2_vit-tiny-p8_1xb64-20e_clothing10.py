# CAE v2, ViT-Ti/8 at 48 pixels, on 800 photos (tests/data/clothing10). Small: 1 process x 64 images, 20 epochs, a few
# minutes on two CPU cores. No image encoder can be taken for granted offline, so histograms of gradients stand in for
# CLIP's features: the method runs as it is, but there is no knowledge of objects in the target.
_base_ = './_base_/pretrain_clothing10.py'

model = dict(
    type='CAEv2',
    data_preprocessor=dict(
        type='TwoNormDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        second_mean=[0, 0, 0],
        second_std=[255, 255, 255],
        to_rgb=True),
    backbone=dict(type='CAEViT', arch='tiny', img_size=48, patch_size=8, drop_path_rate=0.1),
    neck=dict(
        type='CAERegressorNeck',
        num_classes=108,  # 3 colors x 9 directions x 4 cells
        in_channels=192,
        embed_dims=96,
        grid_size=(6, 6),
        regressor_depth=1,
        decoder_depth=0,
        num_heads=12,
        drop_path_rate=0.1),
    head=dict(type='CAEv2Head', supervision='both', with_cls=True),
    target_generator=dict(type='HOGTarget', patch_size=8, pool=4))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='TwoViewRandomResizedCrop',
        size=48,
        second_size=48,
        interpolation='bicubic',
        second_interpolation='bicubic',
        scale=(0.4, 1.0)),
    dict(type='InclusiveBlockMask', input_size=(6, 6), mask_ratio='tiny'),
    dict(type='PackInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
