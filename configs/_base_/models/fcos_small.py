# FCOS at a fifth of its width for small images and three classes, from scratch. The backbone, with maps of 32, 64, 128
# channels at strides 8, 16, 32, is that of the config. GroupNorm, because the batch is small.
model = dict(
    type='FCOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),
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
