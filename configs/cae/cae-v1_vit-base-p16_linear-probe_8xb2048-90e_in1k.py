# Linear probe of CAE ViT-B on ImageNet-1k: class token of the frozen encoder, batch norm without weights, linear layer.
# Paper recipe (authors' code): 8 GPUs x 2048, 90 epochs, LARS. Not run by us. The schedule, MAE's, is mmpretrain's.
_base_ = 'mmpretrain::mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k.py'
custom_imports = dict(imports=['mmplugins.cae'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='CAEViT',
        arch='base',
        frozen_stages=12,
        out_type='cls_token',
        # Where the pretraining writes its last checkpoint; an exported encoder (encoder.pth) fits as well.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/cae-v1_vit-base-p16_32xb64-300e_in1k/epoch_300.pth',
            prefix='backbone.')))

# As the host's, but bicubic (authors' code).
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs')
]
train_dataloader = dict(drop_last=True, dataset=dict(pipeline=train_pipeline))  # authors' code
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
auto_scale_lr = dict(base_batch_size=16384)  # lr 6.4 = 0.1 * 16384 / 256
