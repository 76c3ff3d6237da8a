"""The students, which differ in what they predict: the same encoder, masks and schedule in all arms.

Two stages of a ResNet-18, widths 32 and 64, stride 8, so 4 x 4 mask cells of 8 pixels, 6 visible. The teacher has
8 x 8 tokens.
"""

from pathlib import Path

from mmengine.config import Config

TEACHER_CONFIG = Path(__file__).with_name('mae_digits.py')
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


def student(supervise: str | None) -> dict:
    """Return the model: features at ``'all'`` or ``'masked'`` positions, or pixels (SparK) if None."""
    if supervise is None:
        loss = dict(type='PixelReconstructionLoss', criterion='L2')
        stride, task = 1, dict(pixel_head=dict(type='SparKPretrainHead', patch_size=8, loss=loss), pixel_weight=1.0)
    else:
        stride, task = 4, dict(head=dict(type='FeaturePredictHead', supervise=supervise))
    return dict(
        type='HGKD',
        input_size=32,
        downsample_raito=8,
        mask_ratio=0.6,
        enc_dec_norm_cfg=dict(type='BN'),
        backbone=dict(type='HGKDSparseResNet', backend='rows', **BACKBONE),
        neck=dict(
            type='HGKDUNetDecoder', feature_dim=64, upsample_ratio=8, out_stride=stride, norm_cfg=dict(type='BN')
        ),
        out_channels=64,
        target_stride=4,
        **task,
    )


def run_config(model: dict, folder: Path, seed: int, quick: bool) -> Config:
    """Return the config of a pretraining of 10 epochs, the first of them to warm up."""
    epochs = 2 if quick else 10
    cfg = Config.fromfile(TEACHER_CONFIG)
    cfg.model, cfg.work_dir, cfg.randomness = model, str(folder), dict(seed=seed)
    cfg.experiment_name = f'{folder.parent.name}_{seed}'
    cfg.train_dataloader.dataset.indices = 256 if quick else None
    cfg.train_cfg.max_epochs = epochs
    cfg.optim_wrapper.optimizer.lr = 2e-3
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = 1
    cfg.param_scheduler[1].end = epochs
    cfg.default_hooks.checkpoint = None
    cfg.log_level = 'WARNING'
    return cfg
