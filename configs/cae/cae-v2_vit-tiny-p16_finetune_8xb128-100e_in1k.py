# Fine-tuning of CAE v2 ViT-Ti on ImageNet-1k. Paper recipe (authors' code): 8 GPUs x 128, 100 epochs. Not run by us.
# The authors' script also asks for color jitter of 0.3; timm leaves it out where RandAugment is on, and so do we.
_base_ = './cae-v2_vit-base-p16_finetune_8xb128-100e_in1k.py'
model = dict(
    backbone=dict(
        arch='tiny',
        drop_path_rate=0.0,
        init_cfg=dict(checkpoint='work_dirs/cae-v2_vit-tiny-p16_8xb256-300e_in1k/epoch_300.pth')),
    # No label smoothing; mixup gives soft labels.
    head=dict(in_channels=192, loss=dict(_delete_=True, type='CrossEntropyLoss', use_soft=True)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2)]))  # no cutmix
optim_wrapper = dict(optimizer=dict(lr=4e-3), paramwise_cfg=dict(layer_decay_rate=0.85))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=95,
        by_epoch=True,
        begin=5,
        end=100,
        eta_min_ratio=1e-6 / 4e-3,
        convert_to_iter_based=True)
]
