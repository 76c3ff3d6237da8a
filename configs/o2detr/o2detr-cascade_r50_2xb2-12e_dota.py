# O²DETR with a cascaded rotated RoI head on the maps of its neck, 12 epochs from the checkpoint of the base ("FT": a survey
# lists 50 and 62 epochs). ResNet-50, DOTA-v1.0, 2 GPUs x 2 images. Not run by us. The head is our reading of one sentence.
_base_ = './o2detr_refine-twostage_r50_2xb2-50e_dota.py'
load_from = 'work_dirs/o2detr_refine-twostage_r50_2xb2-50e_dota/epoch_50.pth'
stage = dict(
    type='mmdet.Shared2FCBBoxHead',
    predict_box_type='rbox',
    in_channels=256,
    fc_out_channels=1024,
    roi_feat_size=7,
    num_classes=15,
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
        sampler=dict(type='mmdet.RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
        pos_weight=-1,
        debug=False) for iou in (0.5, 0.6)
]
model = dict(
    type='O2DETRCascade',
    backbone=dict(init_cfg=None),  # its weights come with `load_from`
    num_proposals=500,
    finetune_base=False,
    roi_head=dict(
        type='mmdet.CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_roi_extractor=dict(
            type='RotatedSingleRoIExtractor',
            roi_layer=dict(type='RoIAlignRotated', out_size=7, sample_num=2, clockwise=True),
            out_channels=256,
            featmap_strides=[8, 16, 32]),  # the fourth map is for the base only
        bbox_head=[stage, stage]),
    train_cfg=dict(rcnn=rcnn),
    test_cfg=dict(
        rcnn=dict(score_thr=0.05, nms=dict(type='nms_rotated', iou_threshold=0.1), max_per_img=2000)))

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
# A frozen base; for one that learns, see the docstring of O2DETRCascade.
optim_wrapper = dict(optimizer=dict(lr=1e-4), clip_grad=dict(max_norm=35), paramwise_cfg=dict(_delete_=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=1.0 / 3, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[8, 11], gamma=0.1)
]
del stage, rcnn
