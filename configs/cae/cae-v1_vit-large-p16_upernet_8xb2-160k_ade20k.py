# UperNet on ADE20K from CAE ViT-L. Paper recipe (authors' code): 8 GPUs x 2, 160k iterations, crops of 512. Not run by us.
_base_ = './cae-v1_vit-base-p16_upernet_8xb2-160k_ade20k.py'
model = dict(
    backbone=dict(
        arch='large',
        layer_scale_init_value=1e-5,
        drop_path_rate=0.15,
        init_cfg=dict(checkpoint='work_dirs/cae-v1_vit-large-p16_32xb64-1600e_in1k/epoch_1600.pth')),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024, 1024, 1024, 1024], channels=1024),
    auxiliary_head=dict(in_channels=1024))
optim_wrapper = dict(optimizer=dict(lr=4e-5), paramwise_cfg=dict(layer_decay_rate=0.95))
