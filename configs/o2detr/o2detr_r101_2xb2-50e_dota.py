# O²DETR, the base, ResNet-101, DOTA-v1.0: the backbone of the numbers that a survey lists. 2 GPUs x 2 images, 50 epochs. Not run by us.
_base_ = './o2detr_r50_2xb2-50e_dota.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
