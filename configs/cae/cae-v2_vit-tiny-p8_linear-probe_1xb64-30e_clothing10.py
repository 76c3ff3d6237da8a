# Linear probe of the small CAE v2 on photos (tests/data/clothing10). Small: 1 process x 64 images, 30 epochs, two minutes
# on two CPU cores. First cae-v2_vit-tiny-p8_1xb64-20e_clothing10.py.
_base_ = './cae-v1_vit-tiny-p8_linear-probe_1xb64-30e_clothing10.py'
model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='work_dirs/cae-v2_vit-tiny-p8_1xb64-20e_clothing10/epoch_20.pth')))
