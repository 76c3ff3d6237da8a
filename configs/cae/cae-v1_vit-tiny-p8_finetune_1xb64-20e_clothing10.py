# Fine-tuning of the small CAE on photos (tests/data/clothing10). Small: 1 process x 64 images, 20 epochs, three minutes
# on two CPU cores. First cae-v1_vit-tiny-p8_1xb64-20e_clothing10.py.
_base_ = './_base_/classify_clothing10.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='CAEFinetuneViT',
        arch='tiny',
        img_size=48,
        patch_size=8,
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/cae-v1_vit-tiny-p8_1xb64-20e_clothing10/epoch_20.pth',
            prefix='backbone.')),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=192,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5)))

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.85,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'.cls_token': dict(decay_mult=0.0)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=18,
        eta_min_ratio=1e-3,
        by_epoch=True,
        begin=2,
        end=20,
        convert_to_iter_based=True)
]
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=5)
