# DS-Net-T with inter-scale alignment (10.5 M parameters) on ImageNet-1k: 8 GPUs x 128 images, 300 epochs. Recipe of the
# public PyTorch code, which is DeiT's. Not run by us.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',  # RandAugment, erasing; test: 256, crop 224, bicubic
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_conformer.py',  # AdamW, lr 1e-3, 5 epochs of warm-up, no clipping
    'mmpretrain::_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmplugins.dsnet'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='DSNet',
        arch='tiny',
        inter_scale_align=True,  # False: the paper's model without a star, 9.1 M
        drop_path_rate=0.1,
        legacy_drop_path=True),  # public code: each stage starts at 0 again
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=512,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),  # public code
        # original: the targets are then soft, as mixup needs them
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))

# Color jitter of the public code is not here: timm drops it beside RandAugment.
train_dataloader = dict(batch_size=128, sampler=dict(type='RepeatAugSampler'))
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
custom_hooks = [dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL', update_buffers=True)]  # decay 0.99996
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
