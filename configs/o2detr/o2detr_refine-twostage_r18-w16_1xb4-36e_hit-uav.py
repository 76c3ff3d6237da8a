# O²DETR, our default (distinct proposals of two stages, box refinement, denoising), quarter-width ResNet-18 from scratch,
# on aerial infrared crops (tests/data/hit_uav). Small: 1 process x 4 images, 36 epochs, 9 minutes of processor time on an
# AMD EPYC. Every value here is ours.
_base_ = 'mmrotate::_base_/default_runtime.py'
custom_imports = dict(imports=['mmplugins.o2detr'], allow_failed_imports=False)

model = dict(
    type='O2DETR',
    num_queries=60,  # a crop has up to 24 objects
    with_box_refine=True,
    as_two_stage=True,
    recompute_query_pos=True,
    dn_cfg=dict(label_noise_scale=0.5, box_noise_scale=1.0, group_cfg=dict(dynamic=True, num_dn_queries=50)),
    num_feature_levels=3,
    data_preprocessor=dict(
        type='mmdet.DetDataPreprocessor',
        mean=[127.5, 127.5, 127.5],
        std=[50.0, 50.0, 50.0],
        bgr_to_rgb=False,  # the pictures are grey
        pad_size_divisor=1,
        boxtype2tensor=False),
    backbone=dict(
        type='mmdet.ResNet',
        depth=18,
        base_channels=16,
        num_stages=4,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='GN', num_groups=8)),  # the batch is small
    neck=dict(
        type='mmdet.ChannelMapper',
        in_channels=[32, 64, 128],
        kernel_size=1,
        out_channels=64,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=8),
        num_outs=3),
    encoder=dict(
        type='dwsep',
        num_layers=2,
        layer_cfg=dict(
            mixer_cfg=dict(embed_dims=64, kernel_size=3, cross_level='none'),
            ffn_cfg=dict(embed_dims=64, feedforward_channels=128, ffn_drop=0.0))),
    decoder=dict(
        num_layers=3,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=64, num_heads=8, dropout=0.0, batch_first=True),
            cross_attn_cfg=dict(embed_dims=64, num_levels=3, dropout=0.0, batch_first=True),
            ffn_cfg=dict(embed_dims=64, feedforward_channels=128, ffn_drop=0.0)),
        post_norm_cfg=None),
    positional_encoding=dict(num_feats=32, normalize=True, offset=-0.5),
    bbox_head=dict(
        type='O2DETRHead',
        num_classes=3,
        embed_dims=64,
        angle_version='le180',
        loss_cls=dict(type='mmdet.QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=2.0),  # scores learn the IoU
        loss_bbox=dict(type='PeriodicRBoxL1Loss', loss_weight=5.0),
        loss_iou=dict(type='GDLoss', loss_type='kld', fun='log1p', tau=1, sqrt=False, loss_weight=2.0)),
    train_cfg=dict(
        assigner=dict(
            type='mmdet.HungarianAssigner',
            match_costs=[
                dict(type='mmdet.FocalLossCost', weight=2.0),
                dict(type='RBoxL1Cost', weight=5.0),
                dict(type='GDCost', loss_type='kld', fun='log1p', tau=1, sqrt=False, weight=2.0)
            ])),
    test_cfg=dict(max_per_img=60))

data_root = '{{ fileDirname }}/../../tests/data/hit_uav/'
metainfo = dict(classes=('vehicle', 'bicycle', 'person'), palette=[(255, 80, 80), (80, 220, 80), (80, 160, 255)])
patch_size = 160  # of the crops; `detect` cuts larger pictures so
scale = (224, 224)  # people are 10x15 pixels in a crop
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),
    dict(type='mmdet.RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='mmdet.Resize', scale=scale, keep_ratio=True, clip_object_border=False),
    # After Resize: corners stay right where width and height are scaled differently, the host's rotated boxes do not.
    dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),
    dict(type='mmdet.PackDetInputs')
]
# `LoadImageFromFile` without a scope is the name that mmdet's DetInferencer looks for (upstream it asks for exactly it).
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=scale, keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),  # after Resize: true boxes keep their scale
    dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),
    dict(type='mmdet.PackDetInputs', meta_keys=meta_keys)
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='DOTADataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='train/labelTxt/',
        data_prefix=dict(img_path='train/images/'),
        img_suffix='jpg',
        # Difficult objects, tiny or cut, are not counted in the evaluation, and background in training. With 100, the
        # default, they are objects as others are.
        diff_thr=0,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='DOTADataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='val/labelTxt/',
        data_prefix=dict(img_path='val/images/'),
        img_suffix='jpg',
        diff_thr=0,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
# 'area' as COCO does; the default is 11-point AP.
val_evaluator = dict(type='DOTAMetric', metric='mAP', iou_thrs=[0.5, 0.75], eval_mode='area')
test_evaluator = val_evaluator

max_epochs = 36
# DOTAMetric starts processes, which takes longer than the images.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=18)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min_ratio=0.02, convert_to_iter_based=True)
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    logger=dict(type='LoggerHook', interval=10),
    visualization=dict(type='mmdet.DetVisualizationHook', draw=True, interval=20))
custom_hooks = [dict(type='mmdet.CheckInvalidLossHook', interval=10)]
randomness = dict(seed=0)
log_processor = dict(window_size=20)
