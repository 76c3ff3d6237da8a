# SPSANet-xs (2.2 M parameters) on ImageNet-1k at 256 pixels: 8 GPUs x 128 images, 300 epochs. Recipe of the smaller one, ours.
# Not run by us.
_base_ = './spsanet-xxs_8xb128-300e_in1k.py'
model = dict(backbone=dict(arch='xs'), head=dict(in_channels=224))
