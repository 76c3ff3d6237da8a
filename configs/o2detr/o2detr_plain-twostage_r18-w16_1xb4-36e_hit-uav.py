# Comparison: the small O²DETR without what is ours in its two stages, scores and L1, that is with those of Deformable DETR.
# Small: 1 process x 4 images, 36 epochs, 6.5 minutes of processor time.
_base_ = './o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav.py'
model = dict(
    distinct_thr=None,
    recompute_query_pos=False,
    dn_cfg=None,
    bbox_head=dict(
        tokens_per_gt=1,
        loss_cls=dict(_delete_=True, type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(angle_l1='wrapped')),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='mmdet.FocalLossCost', weight=2.0),
                dict(type='RBoxL1Cost', weight=5.0, angle_l1='wrapped'),
                dict(type='GDCost', loss_type='kld', fun='log1p', tau=1, sqrt=False, weight=2.0)
            ])))
