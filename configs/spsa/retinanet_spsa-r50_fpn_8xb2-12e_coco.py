# RetinaNet, ResNet-50 with SPSA behind the 3x3 convolutions of the stages 2 to 4, COCO. The host's recipe: 8 GPUs x 2 images,
# 12 epochs. First spsa-resnet50_8xb32-100e_in1k.py: the recipe freezes the statistics of the batch norms, and those of a
# ResNet-50 without SPSA do not fit a net with it. Not run by us.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmplugins.spsa'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        plugins=[
            dict(cfg=dict(type='SPSA', head_dim=16), stages=(False, True, True, True), position='after_conv2')
        ],
        init_cfg=dict(checkpoint='work_dirs/spsa-resnet50_8xb32-100e_in1k/epoch_100.pth', prefix='backbone.')))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
