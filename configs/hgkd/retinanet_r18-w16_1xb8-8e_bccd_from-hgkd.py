# RetinaNet on the blood cells of tests/data/bccd, its backbone started from the small export. Plain mmdet, quarter width.
# 1 process x 8 images, 8 epochs, about 3 minutes on one CPU core.
# Needs work_dirs/hgkd/resnet18-w16.pth (see the README), or --cfg-options model.backbone.init_cfg.checkpoint=...
_base_ = 'retinanet_r18-w16_1xb8-8e_bccd.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='Pretrained',
            checkpoint='work_dirs/hgkd/resnet18-w16.pth',
            prefix='backbone.')))
