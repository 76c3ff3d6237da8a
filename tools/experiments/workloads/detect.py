"""Train a small detector of mmdet by its config, and read its AP."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner


def train_detector(
    config: Path, seed: int, folder: Path, epochs: int, images: int | None = None, changes: dict | None = None
) -> dict:
    """Train by a config and test after the last epoch.

    Args:
        config: With datasets, a linear warm-up and a cosine, as the small configs on the blood cells have them.
        seed: Of weights, order and augmentation.
        folder: Where the log goes.
        epochs: Length.
        images: Cut both sets to so many, to see that it runs.
        changes: As ``--cfg-options``.

    Returns:
        ``ap50`` and ``ap`` of mmdet's COCO metric, ``parameters``.
    """
    register_all_modules()
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(changes or {})
    cfg.work_dir, cfg.experiment_name = str(folder), f'{config.stem}_{folder.parent.name}_{seed}'
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
