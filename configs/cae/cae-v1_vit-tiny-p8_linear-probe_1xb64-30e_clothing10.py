# Linear probe of the small CAE on photos (tests/data/clothing10). Small: 1 process x 64 images, 30 epochs, two minutes on
# two CPU cores. First cae-v1_vit-tiny-p8_1xb64-20e_clothing10.py.
_base_ = './_base_/classify_clothing10.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='CAEViT',
        arch='tiny',
        img_size=48,
        patch_size=8,
        frozen_stages=12,
        out_type='cls_token',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/cae-v1_vit-tiny-p8_1xb64-20e_clothing10/epoch_20.pth',
            prefix='backbone.')),
    neck=dict(type='ClsBatchNormNeck', input_features=192),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=192,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.01)))

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='LARS', lr=6.4, weight_decay=0.0, momentum=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=27, eta_min=0.0, by_epoch=True, begin=3, end=30, convert_to_iter_based=True)
]
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=5)
