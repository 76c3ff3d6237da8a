# Cascaded fine-tuning of the small O²DETR from its checkpoint (train that first, or name another with load_from): a
# rotated RoI head of two stages on the frozen base, with an FPN down to stride 4, because people are two cells of the base's
# finest map. Small: 1 process x 4 images, 12 epochs, 3 minutes of processor time.
_base_ = './o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav.py'
load_from = 'work_dirs/o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav/epoch_36.pth'
stage = dict(
    type='mmdet.Shared2FCBBoxHead',
    predict_box_type='rbox',
    in_channels=64,
    fc_out_channels=256,
    roi_feat_size=7,
    num_classes=3,
    reg_predictor_cfg=dict(type='mmdet.Linear'),
    cls_predictor_cfg=dict(type='mmdet.Linear'),
    bbox_coder=dict(
        type='DeltaXYWHTRBBoxCoder',
        angle_version='le90',
        norm_factor=None,
        edge_swap=True,
        proj_xy=True,
        target_means=[0., 0., 0., 0., 0.],
        target_stds=[0.1, 0.1, 0.2, 0.2, 0.1]),
    reg_class_agnostic=True,
    loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    loss_bbox=dict(type='mmdet.SmoothL1Loss', beta=1.0, loss_weight=1.0))
rcnn = [
    dict(
        assigner=dict(
            type='mmdet.MaxIoUAssigner',
            pos_iou_thr=iou,
            neg_iou_thr=iou,
            min_pos_iou=iou,
            match_low_quality=False,
            ignore_iof_thr=-1,
            iou_calculator=dict(type='RBboxOverlaps2D')),
        sampler=dict(type='mmdet.RandomSampler', num=64, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=True),
        pos_weight=-1,
        debug=False) for iou in (0.5, 0.6)
]
model = dict(
    type='O2DETRCascade',
    backbone=dict(out_indices=(0, 1, 2, 3)),  # the base's neck takes the last three
    num_proposals=60,
    roi_neck=dict(type='mmdet.FPN', in_channels=[16, 32, 64, 128], out_channels=64, num_outs=4),
    roi_head=dict(
        type='mmdet.CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_roi_extractor=dict(
            type='RotatedSingleRoIExtractor',
            roi_layer=dict(type='RoIAlignRotated', out_size=7, sample_num=2, clockwise=True),
            out_channels=64,
            featmap_strides=[4, 8, 16, 32]),
        bbox_head=[stage, stage]),
    train_cfg=dict(rcnn=rcnn),
    test_cfg=dict(
        rcnn=dict(score_thr=0.01, nms=dict(type='nms_rotated', iou_threshold=0.1), max_per_img=60)))

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[10], gamma=0.1)
]
del stage, rcnn
