# Linear probe of CAE v2 ViT-Ti on ImageNet-1k. Paper recipe: 8 GPUs x 2048, 90 epochs, LARS. Not run by us.
_base_ = './cae-v1_vit-base-p16_linear-probe_8xb2048-90e_in1k.py'
model = dict(
    backbone=dict(
        arch='tiny', init_cfg=dict(checkpoint='work_dirs/cae-v2_vit-tiny-p16_8xb256-300e_in1k/epoch_300.pth')),
    neck=dict(input_features=192),
    head=dict(in_channels=192))
