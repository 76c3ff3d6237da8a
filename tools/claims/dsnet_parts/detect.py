"""Detection: the small RetinaNet of ``configs/dsnet`` with FPN and with DS-FPN."""

import contextlib
import io
from pathlib import Path

from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner

NECKS = {'FPN': 'retinanet_dsnet-micro_fpn_1xb8-6e_bccd.py', 'DS-FPN': 'retinanet_dsnet-micro_dsfpn_1xb8-6e_bccd.py'}


def train(neck: str, seed: int, configs: Path, epochs: int, folder: Path, images: int | None = None) -> dict:
    """Train one arm, test it after the last epoch.

    Args:
        neck: A key of ``NECKS``.
        seed: Of weights, order and flips.
        configs: Folder of the configs.
        epochs: Length.
        folder: Where the log goes.
        images: Cut both sets to so many images, to see that it runs.

    Returns:
        ``score``, AP50 of mmdet's COCO metric, ``ap`` and ``parameters``.
    """
    register_all_modules()
    cfg = Config.fromfile(configs / NECKS[neck])
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
    return dict(score=ap50, ap=ap, parameters=sum(parameter.numel() for parameter in runner.model.parameters()))
