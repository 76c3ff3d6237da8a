# RetinaNet on the blood cells of tests/data/bccd from scratch. Plain mmdet, quarter width.
# 1 process x 8 images, 8 epochs, about 3 minutes on one CPU core.
_base_ = [
    '../_base_/datasets/bccd_detection.py', 'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/default_runtime.py'
]

model = dict(
    backbone=dict(
        depth=18, stem_channels=16, base_channels=16, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=48),
    bbox_head=dict(num_classes=3, in_channels=48, feat_channels=48, stacked_convs=2))

max_epochs = 8
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01), clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min_ratio=0.02, convert_to_iter_based=True)
]
auto_scale_lr = dict(base_batch_size=8)  # 1 process x 8
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
randomness = dict(seed=0)
