# AdamW for a small detector of mmdet from scratch, 12 epochs, and what runs beside training.
_base_ = 'mmdet::_base_/default_runtime.py'
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
