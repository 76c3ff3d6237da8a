# FCOS on a small SPSANet from scratch, on the blood cells of tests/data/bccd. Small: 1 process x 8 images, 12 epochs,
# about a minute on one CPU core.
_base_ = ['../_base_/datasets/bccd_detection.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['mmplugins.spsa'], allow_failed_imports=False)

model = dict(
    type='FCOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type='mmpretrain.SPSANet',
        arch=dict(dims=(16, 32, 64, 128), depths=(1, 1, 2, 1)),
        mixer=dict(type='SPSA', head_dim=16),
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='GN', num_groups=8)),  # the batch is small
    neck=dict(
        type='FPN',
        in_channels=[32, 64, 128],
        out_channels=48,
        num_outs=3,
        norm_cfg=dict(type='GN', num_groups=8)),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=3,
        in_channels=48,
        feat_channels=48,
        stacked_convs=2,
        strides=[8, 16, 32],
        regress_ranges=((-1, 48), (48, 96), (96, 100000)),
        norm_cfg=dict(type='GN', num_groups=8),
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    test_cfg=dict(nms_pre=300, min_bbox_size=0, score_thr=0.02, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))

max_epochs = 12
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.01), clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min_ratio=0.02, convert_to_iter_based=True)
]
auto_scale_lr = dict(base_batch_size=8)  # 1 process x 8
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2), logger=dict(interval=10))
randomness = dict(seed=0)
