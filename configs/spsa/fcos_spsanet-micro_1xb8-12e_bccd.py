# FCOS on a small SPSANet from scratch, on the blood cells of tests/data/bccd. Small: 1 process x 8 images, 12 epochs,
# about a minute on one CPU core.
_base_ = [
    '../_base_/datasets/bccd_detection.py', '../_base_/models/fcos_small.py',
    '../_base_/schedules/small_detector_12e.py'
]
custom_imports = dict(imports=['mmplugins.spsa'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='SPSANet',
        arch=dict(dims=(16, 32, 64, 128), depths=(1, 1, 2, 1)),
        mixer=dict(type='SPSA', head_dim=16),
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='GN', num_groups=8)))
