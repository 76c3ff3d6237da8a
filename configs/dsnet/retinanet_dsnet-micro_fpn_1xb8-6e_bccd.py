# RetinaNet on a small DS-Net from scratch, on the blood cells of tests/data/bccd; the baseline of DS-FPN. Small: 1 process
# x 8 images, 6 epochs, about one minute on one CPU core.
_base_ = [
    '../_base_/datasets/bccd_detection.py', '../_base_/models/retinanet_small.py',
    '../_base_/schedules/small_detector_12e.py'
]
custom_imports = dict(imports=['mmplugins.dsnet'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='mmpretrain.DSNet',
        arch=dict(
            embed_dims=(16, 32, 64, 128), depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 4), global_ratios=(8, 4, 2, 1)),
        attn_drop_rate=0.0,
        out_indices=(1, 2, 3),
        out_norm='all'))

max_epochs = 6
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min_ratio=0.02, convert_to_iter_based=True)
]
