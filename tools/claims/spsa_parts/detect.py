"""Detection: the small FCOS of ``configs/spsa`` with and without SPSA in its backbone."""

import contextlib
import io
from pathlib import Path

from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner

MIXERS = {'Identity': None, 'SPSA gate': dict(type='SPSA', head_dim=16)}


def train(mixer: str, seed: int, config: Path, epochs: int, folder: Path, images: int | None = None) -> dict:
    """Train one arm, test it after the last epoch.

    Args:
        mixer: A key of ``MIXERS``.
        seed: Of weights, order and flips.
        config: Of the detector.
        epochs: Length.
        folder: Where the log goes.
        images: Cut both sets to so many images, to see that it runs.

    Returns:
        ``ap50`` and ``ap`` of mmdet's COCO metric, ``parameters``.
    """
    register_all_modules()
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'model.backbone.mixer': MIXERS[mixer]})
    cfg.work_dir = str(folder)
    cfg.randomness = dict(seed=seed)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[1].T_max = epochs
    cfg.default_hooks.checkpoint = None
    if images:
        cfg.train_dataloader.dataset.indices = cfg.val_dataloader.dataset.indices = images
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        runner = Runner.from_cfg(cfg)
        runner.train()
    scalars = runner.message_hub.log_scalars
    # mmdet logs nothing if there is not a single detection.
    ap, ap50 = (
        scalars[name].current() if name in scalars else 0.0 for name in ('val/coco/bbox_mAP', 'val/coco/bbox_mAP_50')
    )
    return dict(ap50=ap50, ap=ap, parameters=sum(parameter.numel() for parameter in runner.model.parameters()))
