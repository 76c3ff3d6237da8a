# Mask R-CNN, Swin-T with DS-FPN, COCO: 8 GPUs x 2 images, 12 epochs. The host's config of Swin, but for the neck: blocks of
# the pyramid's channels at strides 8, 16, 32. Not run by us. Swin's weights, which the host takes from an address, are to lie
# in checkpoints/.
_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
custom_imports = dict(imports=['mmplugins.dsnet'], allow_failed_imports=False)
model = dict(
    backbone=dict(init_cfg=dict(checkpoint='checkpoints/swin_tiny_patch4_window7_224.pth')),
    neck=dict(
        type='DSFPN',
        position='lateral_rev',  # 256 channels; half of Swin's 96 has no heads of 32
        levels=(1, 2, 3),  # the paper leaves stride 4 out
        zero_init=False,  # the paper initializes all new layers alike; True is ours
        block_norm_cfg=dict(type='SyncBN')))  # two images a GPU
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
