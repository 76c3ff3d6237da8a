# SPSANet-xxs (1.1 M parameters) on ImageNet-1k at 256 pixels: 8 GPUs x 128 images, 300 epochs. Ours throughout: neither
# the paper's networks nor its recipe are public. Not run by us.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_edgenext_256.py',  # 256 pixels, RandAugment
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',  # AdamW, lr 1e-3 for 1024 images, 300 epochs
    'mmpretrain::_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmplugins.spsa'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    backbone=dict(type='SPSANet', arch='xxs'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=160,
        # original: the targets are then soft, as mixup needs them
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)),
    train_cfg=dict(augments=dict(type='Mixup', alpha=0.2)))  # small networks are regularized little

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5)
]
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL', update_buffers=True)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
