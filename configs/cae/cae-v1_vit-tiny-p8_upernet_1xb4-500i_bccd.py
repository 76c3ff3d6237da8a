# UperNet from the small CAE, on blood cells (tests/data/bccd). Small: 1 process x 4 images, 500 iterations, about a
# quarter of an hour on two CPU cores. First cae-v1_vit-tiny-p8_1xb64-20e_clothing10.py. The set has boxes only: the
# maps are the ellipses inscribed in them, so the numbers say that it runs, not how well it segments cells.
_base_ = ['mmseg::_base_/models/upernet_mae.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmplugins.cae', 'mmplugins.cae.transfer.ellipses'], allow_failed_imports=False)

norm_cfg = dict(type='GN', num_groups=8)  # the batch is small
classes = ['red blood cell', 'white blood cell', 'platelets']
crop_size = (128, 128)
head = dict(num_classes=4, norm_cfg=norm_cfg)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.CAEDenseViT',
        arch='tiny',
        img_size=128,
        patch_size=8,
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/cae-v1_vit-tiny-p8_1xb64-20e_clothing10/epoch_20.pth',
            prefix='backbone.')),
    # Patches of 8 pixels: maps of strides 4, 8, 16, 32.
    neck=dict(
        _delete_=True,
        type='mmpretrain.ViTPyramid',
        in_channels=192,
        scales=(2, 1, 0.5, 0.25),
        norm_cfg=norm_cfg),
    decode_head=dict(in_channels=[192, 192, 192, 192], channels=64, **head),
    auxiliary_head=dict(in_channels=192, channels=64, **head),
    test_cfg=dict(_delete_=True, mode='slide', crop_size=crop_size, stride=(85, 85)))

data_root = '{{ fileDirname }}/../../tests/data/bccd/'
metainfo = dict(
    classes=['background', *classes], palette=[[230, 230, 230], [200, 60, 60], [80, 80, 200], [230, 180, 40]])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.LoadEllipseSegMap', ann_file=data_root + 'annotations/all_train.json', classes=classes),
    dict(type='RandomResize', scale=(320, 240), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='mmpretrain.LoadEllipseSegMap', ann_file=data_root + 'annotations/all_val.json', classes=classes),
    dict(type='PackSegInputs')
]
dataset = dict(type='BaseSegDataset', data_root=data_root, metainfo=metainfo, img_suffix='.jpg')
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**dataset, data_prefix=dict(img_path='train'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, data_prefix=dict(img_path='val'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=500, val_interval=250)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmpretrain.BackboneLayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.85,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, begin=50, end=500, eta_min=0.0, by_epoch=False)
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=250, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'))
randomness = dict(seed=0)
