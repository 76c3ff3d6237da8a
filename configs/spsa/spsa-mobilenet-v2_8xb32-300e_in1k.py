# MobileNetV2 with SPSA behind the depth-wise convolutions, ImageNet-1k. The host's recipe unchanged: 8 GPUs x 32 images,
# 300 epochs. Not run by us.
_base_ = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
custom_imports = dict(imports=['mmplugins.spsa'], allow_failed_imports=False)
model = dict(backbone=dict(type='SPSAMobileNetV2', mixer=dict(type='SPSA', head_dim=16)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
