# ResNet-50 with SPSA behind the 3x3 convolutions of the stages 2 to 4, ImageNet-1k. The host's recipe unchanged: 8 GPUs x
# 32 images, 100 epochs. Not run by us.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
custom_imports = dict(imports=['mmplugins.spsa'], allow_failed_imports=False)
model = dict(backbone=dict(type='SPSAResNet', mixer=dict(type='SPSA', head_dim=16)))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
