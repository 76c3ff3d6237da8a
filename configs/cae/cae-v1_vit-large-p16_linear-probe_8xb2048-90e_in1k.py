# Linear probe of CAE ViT-L on ImageNet-1k. Paper recipe: 8 GPUs x 2048, 90 epochs, LARS. Not run by us.
_base_ = './cae-v1_vit-base-p16_linear-probe_8xb2048-90e_in1k.py'
model = dict(
    backbone=dict(
        arch='large',
        layer_scale_init_value=1e-5,
        frozen_stages=24,
        init_cfg=dict(checkpoint='work_dirs/cae-v1_vit-large-p16_32xb64-1600e_in1k/epoch_1600.pth')),
    neck=dict(input_features=1024),
    head=dict(in_channels=1024))
