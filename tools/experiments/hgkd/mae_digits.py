"""The MAE whose encoder is the teacher: 4 blocks of width 64, patches of 4 pixels, 120 epochs of the digits.

``python tools/train.py tools/experiments/hgkd/mae_digits.py`` takes ten minutes of a core; its encoder is shipped as
``tests/data/hgkd/mae_digits.npz`` (``tools/data/hgkd_teacher.py`` packs it). The students share all but the model.
"""

default_scope = 'mmpretrain'
custom_imports = dict(imports=['experiments.hgkd.digits'], allow_failed_imports=False)

model = dict(
    type='MAE',
    backbone=dict(
        type='MAEViT',
        arch=dict(embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=256),
        img_size=32,
        patch_size=4,
        mask_ratio=0.75,
    ),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=64,
        patch_size=4,
        embed_dim=64,
        decoder_embed_dim=64,
        decoder_depth=1,
        decoder_num_heads=4,
    ),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=4,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
    init_cfg=[
        dict(type='Xavier', layer='Linear', distribution='uniform'),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)

train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    dataset=dict(type='UnlabelledDigits'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
train_cfg = dict(by_epoch=True, max_epochs=120)
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=12, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=12, end=120, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=120), logger=dict(type='LoggerHook', interval=30))
randomness = dict(seed=0)
