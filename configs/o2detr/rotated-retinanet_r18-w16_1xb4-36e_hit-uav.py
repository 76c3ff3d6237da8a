# Comparison: the host's Rotated RetinaNet, quarter-width ResNet-18 from scratch, on the data of the small O²DETR.
# Small: 1 process x 4 images, 36 epochs on a CPU, most of the time rotated IoU of the anchors. Nothing of this plugin.
_base_ = './o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav.py'
angle_version = 'le90'
model = dict(
    _delete_=True,
    type='mmdet.RetinaNet',
    data_preprocessor={{_base_.model.data_preprocessor}},
    backbone={{_base_.model.backbone}},
    neck=dict(
        type='mmdet.FPN',
        in_channels=[32, 64, 128],
        out_channels=64,
        num_outs=3,
        norm_cfg=dict(type='GN', num_groups=8)),
    bbox_head=dict(
        type='mmdet.RetinaHead',
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),  # without one it learns slowly from scratch
        anchor_generator=dict(
            type='FakeRotatedAnchorGenerator',
            angle_version=angle_version,
            octave_base_scale=2,  # objects are 11 to 150 pixels long, the host's anchors begin at 32
            scales_per_octave=2,
            ratios=[1.0, 0.5, 2.0],
            strides=[8, 16, 32]),
        bbox_coder=dict(
            type='DeltaXYWHTRBBoxCoder',
            angle_version=angle_version,
            norm_factor=None,
            edge_swap=True,
            proj_xy=True,
            target_means=(.0, .0, .0, .0, .0),
            target_stds=(1.0, 1.0, 1.0, 1.0, 1.0)),
        loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='mmdet.L1Loss', loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(
            type='mmdet.MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
            iou_calculator=dict(type='RBboxOverlaps2D')),
        sampler=dict(type='mmdet.PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False),
    test_cfg=dict(
        nms_pre=500,
        min_bbox_size=0,
        score_thr=0.02,
        nms=dict(type='nms_rotated', iou_threshold=0.1),
        max_per_img=60))
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=10.0))  # DETRs need a small norm
