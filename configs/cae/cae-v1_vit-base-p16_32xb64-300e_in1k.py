# CAE, ViT-B/16, ImageNet-1K. Paper recipe: 32 GPUs x 64 images, 300 epochs. Not run by us.
# Needs the encoder of DALL-E's tokenizer, OpenAI's own file (link in the README), where `checkpoint` says.
_base_ = './_base_/pretrain_in1k.py'

model = dict(
    type='CAEv1',
    data_preprocessor=dict(
        type='TwoNormDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        second_mean=[-31.875] * 3,  # DALL-E maps pixels in [0, 1] by 0.8 x + 0.1
        second_std=[318.75] * 3,
        to_rgb=True),
    backbone=dict(type='CAEViT', arch='base', img_size=224, patch_size=16, drop_path_rate=0.1),
    neck=dict(
        type='CAERegressorNeck',
        num_classes=8192,
        embed_dims=768,
        grid_size=(14, 14),
        regressor_depth=4,
        decoder_depth=4,
        num_heads=12,
        drop_path_rate=0.1),
    head=dict(type='CAEv1Head', align_weight=2.0),
    target_generator=dict(
        type='DALLETokenTarget', init_cfg=dict(type='Pretrained', checkpoint='data/dall-e/encoder.pkl')))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='TwoViewRandomResizedCrop',
        size=224,
        second_size=112,  # DALL-E gives a token for 8 x 8 pixels
        interpolation='bicubic',
        second_interpolation='lanczos',
        scale=(0.08, 1.0)),
    dict(type='InclusiveBlockMask', input_size=(14, 14), num_masking_patches=98),
    dict(type='PackInputs')
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
