# UperNet on ADE20K from an export of H-GKD's ResNet-50. 4 GPUs x 4 images, 160k iterations. Not run by us.
_base_ = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'

model = dict(
    pretrained=None,
    backbone=dict(
        type='ResNet',  # mmseg's base has the deep stem of ResNetV1c
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/hgkd_r50.pth', prefix='backbone.')))
auto_scale_lr = dict(enable=False, base_batch_size=16)
