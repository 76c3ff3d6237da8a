# UperNet, DS-Net-S, ADE20K: 4 GPUs x 4 images, 160k iterations, crops of 512. Ours: the host's schedule for Swin. Not run
# by us. First dsnet-small_8xb128-300e_in1k.py, or a converted checkpoint in its place.
_base_ = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmplugins.dsnet'], allow_failed_imports=False)
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmpretrain.DSNet',
        arch='small',
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='SyncBN'),  # four images a GPU
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/dsnet-small_8xb128-300e_in1k/epoch_300.pth',
            prefix='backbone.')),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False)
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
auto_scale_lr = dict(base_batch_size=16)
