"""Runner configs: the MAE teacher, and the students that differ in what they predict.

Student: two stages of a ResNet-18, widths 32 and 64, stride 8, so 4 x 4 mask cells of 8 pixels, 6 visible. Teacher: ViT
of 4 blocks of width 64 on patches of 4 pixels, so 8 x 8 tokens. All arms have the same encoder, masks and schedule.
"""

from pathlib import Path

BACKBONE = dict(
    depth=18,
    num_stages=2,
    strides=(1, 2),
    dilations=(1, 1),
    out_indices=(0, 1),
    stem_channels=32,
    base_channels=32,
    norm_cfg=dict(type='BN'),
)
VIT = dict(
    type='MAEViT',
    arch=dict(embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=256),
    img_size=32,
    patch_size=4,
    mask_ratio=0.75,
)
TAP = 'layers.3'
# Arm: what the student predicts.
SPARK = dict(
    pixel_head=dict(type='SparKPretrainHead', patch_size=8, loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    pixel_weight=1.0,
)
MAE = dict(
    type='MAE',
    backbone=VIT,
    neck=dict(
        type='MAEPretrainDecoder', num_patches=64, patch_size=4, embed_dim=64, decoder_embed_dim=64, decoder_depth=1,
        decoder_num_heads=4,
    ),
    head=dict(
        type='MAEPretrainHead', norm_pix=True, patch_size=4, loss=dict(type='PixelReconstructionLoss', criterion='L2')
    ),
    init_cfg=[
        dict(type='Xavier', layer='Linear', distribution='uniform'),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)  # fmt: skip


def student(supervise: str | None) -> dict:
    """Return the model: features at all, masked or visible positions, or pixels (SparK) if None."""
    pixels = supervise is None
    return dict(
        type='HGKD',
        input_size=32,
        downsample_raito=8,
        mask_ratio=0.6,
        enc_dec_norm_cfg=dict(type='BN'),
        backbone=dict(type='HGKDSparseResNet', backend='rows', **BACKBONE),
        neck=dict(
            type='HGKDUNetDecoder',
            feature_dim=64,
            upsample_ratio=8,
            out_stride=1 if pixels else 4,
            norm_cfg=dict(type='BN'),
        ),
        head=None if pixels else dict(type='FeaturePredictHead', supervise=supervise),
        out_channels=64,
        target_stride=4,
        **(SPARK if pixels else {}),
    )


def run_config(
    model: dict, work_dir: Path, epochs: int, seed: int, lr: float, images: int | None = None, hooks: tuple = ()
) -> dict:
    """Return the config of a pretraining: AdamW, batches of 128, warm-up of a tenth, cosine; kept: the last weights."""
    warm_up = max(1, epochs // 10)
    return dict(
        default_scope='mmpretrain',
        model=model,
        work_dir=str(work_dir),
        experiment_name=f'{work_dir.name}_{seed}',
        train_dataloader=dict(
            batch_size=128,
            num_workers=0,
            dataset=dict(type='UnlabelledDigits', indices=images),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.95), weight_decay=0.05), clip_grad=dict(max_norm=5.0)
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=warm_up, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', by_epoch=True, begin=warm_up, end=epochs, convert_to_iter_based=True),
        ],
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=epochs, save_optimizer=False),
            logger=dict(type='LoggerHook', interval=30),
        ),
        custom_hooks=list(hooks),
        randomness=dict(seed=seed),
        log_level='WARNING',
    )
