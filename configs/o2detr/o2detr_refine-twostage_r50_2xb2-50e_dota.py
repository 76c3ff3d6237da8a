# O²DETR, our default: box refinement, two stages with distinct proposals, denoising, and scores that learn the IoU.
# ResNet-50, DOTA-v1.0. 2 GPUs x 2 images, 50 epochs. Not run by us. The abstract of O²DETR names none of these, so the
# base config is without.
_base_ = './o2detr_r50_2xb2-50e_dota.py'
model = dict(
    with_box_refine=True,
    as_two_stage=True,
    recompute_query_pos=True,
    dn_cfg=dict(label_noise_scale=0.5, box_noise_scale=1.0, group_cfg=dict(dynamic=True, num_dn_queries=100)),
    bbox_head=dict(
        loss_cls=dict(_delete_=True, type='mmdet.QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=2.0)))
