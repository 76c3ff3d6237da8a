# Member of the small ensemble: FCOS on a quarter-width ResNet-18 from scratch, on the blood cells of tests/data/bccd.
# Small: 1 process x 8 images, 12 epochs, about two minutes on one CPU core. Plain mmdet, nothing of this plugin.
_base_ = [
    '../_base_/datasets/bccd_detection.py', '../_base_/models/fcos_small.py',
    '../_base_/schedules/small_detector_12e.py'
]

model = dict(
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=16,
        num_stages=4,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='GN', num_groups=8)),
    test_cfg=dict(score_thr=0.01))  # low: an ensemble ranks the boxes itself

train_cfg = dict(val_interval=12)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1), logger=dict(interval=50))
