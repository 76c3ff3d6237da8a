# H-GKD, small: a quarter-width sparse ResNet-18 learns from the shipped MAE teacher on the 800 clothing photos of
# tests/data/clothing10, without labels. 1 process x 40 images, 20 epochs, about 3 minutes on one CPU core.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmplugins.hgkd'], allow_failed_imports=False)

model = dict(
    type='HGKD',
    input_size=96,  # 3 x 3 mask cells, 4 visible
    mask_ratio=0.6,
    out_channels=96,
    target_stride=16,
    enc_dec_norm_cfg=dict(type='BN'),
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
    backbone=dict(
        type='HGKDSparseResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN')),
    neck=dict(type='HGKDUNetDecoder', feature_dim=128, upsample_ratio=32, out_stride=4, norm_cfg=dict(type='BN')),
    head=dict(type='FeaturePredictHead', loss_type='smooth_l1', beta=2.0, supervise='all'))

data_root = '{{ fileDirname }}/../../tests/data/clothing10/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=96, crop_ratio_range=(0.4, 1.0), backend='cv2', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')
]
train_dataloader = dict(
    batch_size=40,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        data_prefix='train',
        with_label=False,
        pipeline=train_pipeline))

# The only place with labels: what the features know about classes is logged.
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 96)), dict(type='PackInputs')]
bank = dict(
    batch_size=80,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='train', pipeline=test_pipeline))
queries = dict(bank, dataset=dict(bank['dataset'], data_prefix='val'))

custom_hooks = [
    dict(type='EpochSeedHook'),  # a resumed run has the losses of an uninterrupted one
    dict(
        type='GenerativeDistillHook',
        teacher=dict(
            type='MAEViT',
            arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
            img_size=96,
            patch_size=16),
        checkpoint='{{ fileDirname }}/../../tests/data/hgkd/mae_clothing10.npz',
        taps=['layers.3']),
    dict(type='NearestNeighborHook', bank=bank, queries=queries, interval=5)  # in the log: knn/top1; the most frequent class alone is 23.8
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0))
max_epochs = 20
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=2, end=max_epochs, convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=2))
auto_scale_lr = dict(base_batch_size=40)  # 1 process x 40
randomness = dict(seed=0)
