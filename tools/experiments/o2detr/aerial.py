"""The small configs as they are shipped, on real aerial frames: equal iterations, seeds, with and without NMS.

``tests/data/hit_uav``, 338 crops to learn from and 107 of capture conditions that these lack. `base` is the default
without what is ours in its two stages, scores and L1; `matched` lacks of the default only denoising and positions
that are recomputed; `longer`, the control of `cascade`, trains the default as many
epochs more.
"""

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from experiments import ROOT
from experiments.frame.claims import Found
from experiments.frame.models import write_models
from experiments.frame.tasks import Context
from experiments.o2detr.measure import test
from experiments.workloads.classify import count

CONFIGS = ROOT / 'configs/o2detr'
DEFAULT = 'o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav.py'
CASCADE = 'o2detr-cascade_r18-w16-fpn_1xb4-12e_hit-uav.py'
# In the order in which they are worth their time; those that start from another arm name it.
ARMS = dict(
    default=dict(config=DEFAULT, minutes=14),
    matched=dict(config=DEFAULT, minutes=12, changes={'model.recompute_query_pos': False, 'model.dn_cfg': None}),
    retinanet=dict(config='rotated-retinanet_r18-w16_1xb4-36e_hit-uav.py', minutes=14),
    base=dict(config='o2detr_plain-twostage_r18-w16_1xb4-36e_hit-uav.py', minutes=10),
    deformable=dict(config='rotated-deformable-detr_r18-w16_1xb4-36e_hit-uav.py', minutes=14),
    cascade=dict(config=CASCADE, minutes=4, start='default'),
    longer=dict(config=DEFAULT, minutes=3, start='default'),
    faster_rcnn=dict(config='rotated-faster-rcnn_r18-w16_1xb4-36e_hit-uav.py', minutes=14),
)


def aerial_config(arm: str, seed: int, work_dir: Path, start: Path | None, quick: bool) -> Config:
    """Config of a run, see :data:`ARMS`."""
    cfg = Config.fromfile(CONFIGS / ARMS[arm]['config'])
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        if quick:
            loader.dataset.indices = 8
    cfg.merge_from_dict(ARMS[arm].get('changes', {}))
    if arm == 'longer':
        # As long as the cascade and by its schedule, at a tenth of the default's highest rate.
        cascade = Config.fromfile(CONFIGS / CASCADE)
        cfg.train_cfg.max_epochs = cascade.train_cfg.max_epochs
        cfg.param_scheduler = cascade.param_scheduler
        cfg.optim_wrapper.optimizer.lr *= 0.1
    if quick:
        cfg.train_cfg.max_epochs = 1
    epochs = cfg.train_cfg.max_epochs
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=epochs, filename_tmpl='last.pth')
    cfg.default_hooks.visualization.draw = False
    cfg.load_from = start and str(start)
    cfg.randomness = dict(seed=seed)
    cfg.work_dir, cfg.experiment_name, cfg.log_level = str(work_dir), f'{arm}_{seed}', 'WARNING'
    return cfg


def aerial(arm: str, seed: int, context: Context) -> dict:
    """Train and test a shipped config; the cascade also by the scores of its RoI head alone."""
    init_default_scope('mmrotate')
    start = ARMS[arm].get('start')
    start = start and context.of(start).folder / 'last.pth'
    runner = Runner.from_cfg(aerial_config(arm, seed, context.folder, start, context.quick))
    runner.train()
    found = dict(**test(runner), iterations=runner.iter, parameters=count(runner.model) / 1e6)
    if arm == 'cascade':
        runner.model.base_score_weight = 0.0
        found['alone'] = test(runner)['rows']
    return found


def record_models(found: Found, context: Context, folder: Path) -> None:
    """Write what the configs that are shipped reached, for the metafile: ``models.json``."""
    measured = {}
    for arm, settings in ARMS.items():
        jobs = found.results.get('aerial', {}).get(arm)
        if not jobs or arm in ('matched', 'longer'):  # which are no configs of their own
            continue
        seeds = {
            seed: {f'dota/{key.upper()}': job['rows']['as it is'][key] for key in ('ap50', 'ap75')}
            for seed, job in sorted(jobs.items())
        }
        places = {key: '; '.join(sorted({job[key] for job in jobs.values()})) for key in ('machine', 'date')}
        measured[settings['config'].removesuffix('.py')] = dict(
            dataset='HIT-UAV', seeds=seeds, **places, note='107 crops'
        )
    write_models(folder / 'models.json', measured)
