# SSDLite with SPSANet-xs at 320 pixels, COCO. The host's recipe for MobileNetV2 from scratch: 8 GPUs x 24 images, 120
# epochs of five passes. Not run by us.
_base_ = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
custom_imports = dict(imports=['mmplugins.spsa', 'mmplugins.spsa.ssd'], allow_failed_imports=False)
norm_cfg = dict(type='BN', eps=0.001, momentum=0.03)  # the host's
model = dict(
    backbone=dict(_delete_=True, type='SPSANet', arch='xs', out_indices=(2, 3), norm_cfg=norm_cfg),
    neck=dict(in_channels=(144, 224), out_channels=(144, 224, 512, 256, 256, 128)),  # strides 16 and 32
    bbox_head=dict(type='SPSASSDHead', in_channels=(144, 224, 512, 256, 256, 128)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
