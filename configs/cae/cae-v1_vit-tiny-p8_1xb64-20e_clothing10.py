# CAE, ViT-Ti/8 at 48 pixels, tokens of a k-means codebook, on 800 photos (tests/data/clothing10). Small: 1 process x 64
# images, 20 epochs, a few minutes on two CPU cores.
_base_ = './_base_/pretrain_clothing10.py'

model = dict(
    type='CAEv1',
    data_preprocessor=dict(
        type='TwoNormDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        second_mean=[0, 0, 0],  # the codebook is for pixels in [0, 1]
        second_std=[255, 255, 255],
        to_rgb=True),
    backbone=dict(type='CAEViT', arch='tiny', img_size=48, patch_size=8, drop_path_rate=0.1),
    neck=dict(
        type='CAERegressorNeck',
        num_classes=128,
        embed_dims=192,
        grid_size=(6, 6),
        regressor_depth=2,  # 4 in the paper; half the time
        decoder_depth=2,
        num_heads=12,
        drop_path_rate=0.1),
    head=dict(type='CAEv1Head', align_weight=2.0),
    target_generator=dict(type='KMeansTokenTarget', codebook='clothing10-p8-k128'))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='TwoViewRandomResizedCrop',
        size=48,
        second_size=48,
        interpolation='bicubic',
        second_interpolation='bicubic',
        scale=(0.4, 1.0)),  # ours: crops of photos of 96 pixels
    dict(type='InclusiveBlockMask', input_size=(6, 6), mask_ratio=0.5),
    dict(type='PackInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
