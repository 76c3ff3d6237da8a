# Mask R-CNN on COCO from an export of H-GKD's ResNet-50. 8 GPUs x 2 images, 12 epochs. Not run by us.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        frozen_stages=-1,  # ours: nothing here was trained with labels
        # Ours: statistics of the pretraining come from visible sites only. To freeze batch norm instead, as mmdet does,
        # export with --bn-images.
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/hgkd_r50.pth', prefix='backbone.')))
