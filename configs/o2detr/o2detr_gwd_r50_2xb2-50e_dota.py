# O²DETR with the Gaussian Wasserstein distance in loss and matching. 2 GPUs x 2 images, 50 epochs. Not run by us.
_base_ = './o2detr_refine-twostage_r50_2xb2-50e_dota.py'
model = dict(
    bbox_head=dict(loss_iou=dict(_delete_=True, type='GDLoss', loss_type='gwd', fun='log1p', tau=1, loss_weight=2.0)),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='mmdet.FocalLossCost', weight=2.0),
                dict(type='RBoxL1Cost', weight=5.0),
                dict(type='GDCost', loss_type='gwd', fun='log1p', tau=1, weight=2.0)
            ])))
