# Faster R-CNN, ResNet-50 with SPSA behind the 3x3 convolutions of the stages 2 to 4, COCO. The host's recipe unchanged: 8 GPUs x
# 2 images, 12 epochs; SPSA has no weights, so ImageNet checkpoints of ResNet-50 load as they are. Not run by us.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmplugins.spsa'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        plugins=[
            dict(cfg=dict(type='SPSA', head_dim=16), stages=(False, True, True, True), position='after_conv2')
        ]))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
