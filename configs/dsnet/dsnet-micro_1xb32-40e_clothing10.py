# A small DS-Net (0.5 M parameters) on 800 photos of clothes at 64 pixels (tests/data/clothing10). Small: 1 process x 32
# images, 40 epochs, about three minutes on one CPU core.
_base_ = ['../_base_/datasets/clothing10_64.py', 'mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['mmplugins.dsnet'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=10, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
    backbone=dict(
        type='DSNet',
        arch=dict(embed_dims=(32, 64, 128), depths=(1, 1, 2), num_heads=(1, 2, 4), global_ratios=(4, 2, 1)),
        attn_drop_rate=0.0),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=128,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'), topk=(1, 3)))

max_epochs = 40
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True)
]
auto_scale_lr = dict(base_batch_size=32)  # 1 process x 32
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=2), logger=dict(interval=25))
randomness = dict(seed=0)
