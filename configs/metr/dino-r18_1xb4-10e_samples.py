# Reuse: plain mmdet DINO on the two partly annotated sets of tests/data/bccd, with METR's data set and metric only. Small:
# 1 process x 4 images, 10 epochs. It trains what a set does not annotate as background; METR does not.
_base_ = './metr_dino-r18_1xb4-10e_samples.py'
model = dict(
    _delete_=True,
    type='DINO',
    num_queries=60,
    with_box_refine=True,
    as_two_stage=True,
    data_preprocessor={{_base_.model.data_preprocessor}},
    backbone={{_base_.model.backbone}},
    neck={{_base_.model.neck}},
    num_feature_levels=3,
    encoder={{_base_.model.encoder}},
    decoder={{_base_.model.decoder}},
    positional_encoding={{_base_.model.positional_encoding}},
    bbox_head=dict(
        type='DINOHead',
        embed_dims=128,
        num_classes=3,
        sync_cls_avg_factor=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0)),
    dn_cfg=dict(
        label_noise_scale=0.5, box_noise_scale=1.0, group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=40)),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0)
            ])),
    test_cfg=dict(max_per_img=100))
custom_hooks = [dict(type='CheckInvalidLossHook', interval=10)]  # the vocabulary check is for METR models
