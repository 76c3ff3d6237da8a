"""The arms: configs of ``configs/o2detr`` on the digits, with one thing changed."""

from pathlib import Path

from mmengine.config import Config

from experiments import ROOT
from experiments.o2detr.data import CLASSES, SIZE

CONFIGS = ROOT / 'configs/o2detr'
SMALL = 'o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav.py'
MORE_ITERS = 250  # of the cascade, and of the base as its control

# An image has at most five digits; two decoder layers halve the time. Parts are compared without denoising.
LIGHT = {
    'model.num_queries': 20,
    'model.test_cfg.max_per_img': 20,
    'model.decoder.num_layers': 2,
    'model.recompute_query_pos': False,
    'model.dn_cfg': None,
}
PLAIN = {
    'model.bbox_head.loss_bbox.angle_l1': 'plain',
    'model.train_cfg.assigner.match_costs': [
        dict(type='mmdet.FocalLossCost', weight=2.0),
        dict(type='RBoxL1Cost', weight=5.0, angle_l1='plain'),
        dict(type='GDCost', weight=2.0),
    ],
}
# One map, of stride 8 and from the first stage: a cell sees less than a large digit, so an encoder has to look on.
ONE_MAP = {
    **LIGHT,
    'model.num_feature_levels': 1,
    'model.backbone': dict(num_stages=1, strides=(2,), dilations=(1,), out_indices=(0,)),
    'model.neck': dict(in_channels=[16], num_outs=1),
    'model.decoder.layer_cfg.cross_attn_cfg.num_levels': 1,
}
ATTENTION = dict(
    self_attn_cfg=dict(embed_dims=64, num_levels=1, dropout=0.0, batch_first=True),
    ffn_cfg=dict(embed_dims=64, feedforward_channels=128, ffn_drop=0.0),
)
# Arm: config, what differs from it, the arm whose weights it starts from, learning rate.
ARMS = dict(
    dwsep=dict(config=SMALL, changes=LIGHT),
    exchange=dict(config=SMALL, changes={**LIGHT, 'model.encoder.layer_cfg.mixer_cfg.cross_level': 'adjacent'}),
    plain_l1=dict(config=SMALL, changes={**LIGHT, **PLAIN}),
    retinanet=dict(config='rotated-retinanet_r18-w16_1xb4-36e_hit-uav.py'),
    cascade=dict(config='o2detr-cascade_r18-w16-fpn_1xb4-12e_hit-uav.py', changes=LIGHT, start='dwsep'),
    longer=dict(config=SMALL, changes=LIGHT, start='dwsep', lr=2e-4),
)
# Encoders, on large digits.
ENCODERS = {
    'dwsep': dict(config=SMALL, changes={**ONE_MAP, 'model.encoder.num_layers': 4}),
    'deformable': dict(
        config=SMALL,
        changes={**ONE_MAP, 'model.encoder': dict(_delete_=True, type='deformable', num_layers=4, layer_cfg=ATTENTION)},
    ),
    'none': dict(config=SMALL, changes={**ONE_MAP, 'model.encoder': dict(_delete_=True, type='none', embed_dims=64)}),
}


def arm_config(arm: dict, data: Path, work_dir: Path, iters: int, seed: int, start: Path | None) -> Config:
    """Config of a run.

    Args:
        arm: Of :data:`ARMS` or :data:`ENCODERS`.
        data: Folder of the digits.
        work_dir: Of the run.
        iters: Iterations.
        seed: Of weights and order of images.
        start: Checkpoint to start from, or None.
    """
    cfg = Config.fromfile(CONFIGS / arm['config'])
    for key, value in arm.get('changes', {}).items():
        if isinstance(value, dict) and value.get('_delete_'):
            # merge_from_dict would keep the old keys.
            cfg.model[key.rpartition('.')[2]] = {k: v for k, v in value.items() if k != '_delete_'}
        else:
            cfg.merge_from_dict({key: value})
    heads = [cfg.model.get('bbox_head'), *cfg.model.get('roi_head', {}).get('bbox_head', [])]
    for head in heads:
        head.num_classes = len(CLASSES)
    for part, loader in (('train', cfg.train_dataloader), ('val', cfg.test_dataloader)):
        loader.update(num_workers=0, persistent_workers=False, batch_size=8 if part == 'train' else 10)
        loader.dataset.update(
            data_root=str(data),
            ann_file=f'{part}/labelTxt/',
            data_prefix=dict(img_path=f'{part}/images/'),
            img_suffix='png',
            metainfo=dict(classes=CLASSES),
        )
        for step in loader.dataset.pipeline:
            if step.type == 'mmdet.Resize':
                step.scale = (SIZE, SIZE)
        # A turned digit may be another one, and a mirrored one is none.
        loader.dataset.pipeline = [step for step in loader.dataset.pipeline if step.type != 'mmdet.RandomFlip']
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters)
    cfg.optim_wrapper.optimizer.update(lr=arm.get('lr', cfg.optim_wrapper.optimizer.lr), fused=True)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=min(50, max(iters // 3, 1))),
        dict(type='CosineAnnealingLR', T_max=iters, eta_min_ratio=0.02, by_epoch=False),
    ]
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=iters, max_keep_ckpts=1)
    cfg.default_hooks.visualization.draw = False
    cfg.load_from = start and str(start)
    cfg.randomness = dict(seed=seed)
    cfg.work_dir, cfg.log_level = str(work_dir), 'WARNING'
    cfg.experiment_name = '_'.join(work_dir.parts[-3:])  # the loggers of mmengine are global
    return cfg
