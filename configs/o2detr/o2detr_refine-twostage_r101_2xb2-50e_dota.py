# O²DETR, our default, ResNet-101, DOTA-v1.0. 2 GPUs x 2 images, 50 epochs. Not run by us.
_base_ = './o2detr_refine-twostage_r50_2xb2-50e_dota.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
