# O²DETR with rotated IoU in loss and matching. 2 GPUs x 2 images, 50 epochs. Not run by us. Trains on CUDA only: the loss
# needs `diff_iou_rotated_2d`, which has no CPU code and was reported to give NaN in half precision: no --amp here.
_base_ = './o2detr_refine-twostage_r50_2xb2-50e_dota.py'
model = dict(
    bbox_head=dict(loss_iou=dict(_delete_=True, type='RotatedIoULoss', mode='linear', loss_weight=2.0)),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='mmdet.FocalLossCost', weight=2.0),
                dict(type='RBoxL1Cost', weight=5.0),
                dict(type='RotatedIoUCost', weight=2.0)
            ])))
