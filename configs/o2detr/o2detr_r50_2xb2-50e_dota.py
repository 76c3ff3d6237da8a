# O²DETR, the base: what the abstract names and nothing more (for use: o2detr_refine-twostage_r50_2xb2-50e_dota.py).
# ResNet-50, DOTA-v1.0 in patches of 1024 (overlap 200). 2 GPUs x 2 images, 50 epochs. Not run by us.
# Trains on train and validates on val. Numbers of DOTA's server are of models trained on both: for those set
# train_dataloader.dataset.ann_file=trainval/annfiles/ train_dataloader.dataset.data_prefix.img_path=trainval/images/
# by --cfg-options, ignore the validation, and send in what `python -m mmplugins.o2detr submit` writes.
# Backbone, data and number of epochs are those that a survey lists for the paper (Transformer-SOD); the rest is not public
# and ours, near to public rotated Deformable DETRs (ai4rs).
_base_ = ['mmrotate::_base_/datasets/dota.py', 'mmrotate::_base_/default_runtime.py']
custom_imports = dict(imports=['mmplugins.o2detr'], allow_failed_imports=False)

model = dict(
    type='O2DETR',
    num_queries=900,  # a patch may hold hundreds of objects
    num_feature_levels=4,
    with_box_refine=False,
    as_two_stage=False,
    data_preprocessor=dict(
        type='mmdet.DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1,
        boxtype2tensor=False),
    backbone=dict(
        type='mmdet.ResNet',
        depth=50,
        num_stages=4,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(
        type='mmdet.ChannelMapper',
        in_channels=[512, 1024, 2048],
        kernel_size=1,
        out_channels=256,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=32),
        num_outs=4),
    encoder=dict(
        type='dwsep',  # depthwise separable convolution in the place of attention: the abstract
        num_layers=6,
        layer_cfg=dict(
            mixer_cfg=dict(embed_dims=256, kernel_size=3, cross_level='none', dropout=0.1),
            ffn_cfg=dict(embed_dims=256, feedforward_channels=1024, ffn_drop=0.1))),
    decoder=dict(
        num_layers=6,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.1, batch_first=True),
            cross_attn_cfg=dict(embed_dims=256, num_levels=4, num_points=4, dropout=0.1, batch_first=True),
            ffn_cfg=dict(embed_dims=256, feedforward_channels=1024, ffn_drop=0.1)),
        post_norm_cfg=None),
    positional_encoding=dict(num_feats=128, normalize=True, offset=-0.5),
    bbox_head=dict(
        type='O2DETRHead',
        num_classes=15,
        embed_dims=256,
        angle_version='le180',
        loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
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
    test_cfg=dict(max_per_img=500))

patch_size = 1024  # of the pictures to train on; `detect` cuts larger ones so
# The host's pipelines, but the boxes become rotated ones after Resize: corners stay right where width and height are scaled
# differently, the host's rotated boxes do not.
train_pipeline = [
    dict(type='mmdet.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),
    dict(type='mmdet.Resize', scale=(1024, 1024), keep_ratio=True, clip_object_border=False),
    dict(type='mmdet.RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),
    dict(type='mmdet.PackDetInputs')
]
# `LoadImageFromFile` under the name that mmdet's DetInferencer looks for.
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=(1024, 1024), keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),
    dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),
    dict(type='mmdet.PackDetInputs', meta_keys=meta_keys)
]
# The host's base trains and validates on the same patches.
train_dataloader = dict(
    dataset=dict(
        type='DOTATextDataset', ann_file='train/annfiles/', data_prefix=dict(img_path='train/images/'), pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        type='DOTATextDataset', ann_file='val/annfiles/', data_prefix=dict(img_path='val/images/'), pipeline=val_pipeline))
test_dataloader = val_dataloader

max_epochs = 50
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            'sampling_offsets': dict(lr_mult=0.1),
            'reference_points': dict(lr_mult=0.1)
        }))
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[40], gamma=0.1)]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
