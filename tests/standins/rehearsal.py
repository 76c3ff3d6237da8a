"""A run as ``tools/train.py`` and ``tools/test.py`` make it, shortened to two iterations."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from mmengine.utils import ManagerMixin

from mmplugins.utils.running import launch

# Keys of a model that hold numbers of iterations, of boxes that are looked at, of those a detector learns from.
ITERATIONS = dict.fromkeys(('steps', 'train_steps', 'test_steps', 'num_steps', 'inner_steps'), 2)
LIMITS = dict(**ITERATIONS, nms_pre=100, max_per_img=20, num=32, num_queries=60)
# Keys of transforms and of the preprocessor that hold sides in pixels.
SIDES = ('scale', 'scales', 'crop_size', 'size', 'img_scale')


def dicts(node: object) -> Iterator[dict]:
    """Yield every dict of a nested config, parents first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from dicts(value)


def load(config: Path, work_dir: Path, options: dict | None = None) -> Config:
    """Read a config with the arguments of ``tools/train.py``."""
    arguments = launch.build_parser('').parse_args([str(config), '--work-dir', str(work_dir)])
    arguments.cfg_options = options
    return launch.load_config(arguments)


def shorten(cfg: Config, shrink: int = 1, workers: int = 0) -> None:
    """Cut a run to a size that a test can bear: an epoch, or two iterations; batches of two; small pictures.

    Args:
        cfg: Changed in place.
        shrink: Divides the sides of pictures.
        workers: Of each loader.
    """
    for part in ('train', 'val', 'test'):
        loader = cfg.get(f'{part}_dataloader')
        if not loader:
            continue
        if 'batch_size' in loader:
            loader.batch_size = min(loader.batch_size, 2)
        loader.num_workers = workers
        if not workers:
            loader.pop('persistent_workers', None)
            loader.pop('prefetch_factor', None)
        for node in dicts(loader.dataset):
            if 'num_episodes' in node:
                node.update(num_episodes=2, queries=3)
            elif 'num_episodes' not in loader.dataset and (
                ('ann_file' in node and 'Load' not in node.type)  # no transform that reads annotations
                or 'tests/data' in node.get('data_root', '')
            ):
                node['indices'] = 2 * loader.get('batch_size', 2) if part == 'train' else 2
        if shrink > 1:
            shrink_sides(loader, shrink)
    if shrink > 1:
        shrink_sides(cfg.model.get('data_preprocessor'), shrink)
    for node in dicts(cfg.model):
        node.update({key: min(node[key], limit) for key, limit in LIMITS.items() if node.get(key)})
        if 'score_thr' in node:
            node['score_thr'] = 0.0  # what has learned for two iterations is sure of nothing
    set_length(cfg)


def set_length(cfg: Config, resumed: bool = False) -> None:
    """Set the end of training: an epoch, or two iterations; one more for the run that resumes, and nothing but that."""
    if not cfg.get('train_cfg'):
        return
    # A schedule without an end goes on to that of the training, which must stay where the config has it.
    length = cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters'))
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        scheduler.setdefault('end', length)
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.update(max_iters=3 if resumed else 2, val_interval=2)
        cfg.default_hooks.checkpoint.interval = 2
    else:
        cfg.train_cfg.update(max_epochs=2 if resumed else 1, val_interval=1)
        cfg.default_hooks.checkpoint.interval = 1
    if resumed:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)


def shrink_sides(node: object, factor: int) -> None:
    """Divide the sides of pictures in pixels, wherever they stand in a config."""

    def divide(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return type(value)(divide(one) for one in value)
        return max(1, value // factor) if isinstance(value, int) and not isinstance(value, bool) else value

    for transform in dicts(node):
        for key in SIDES:
            if key in transform:
                transform[key] = divide(transform[key])


def forget() -> None:
    """Drop what mmengine keeps for the whole process: loggers, message hubs, scopes, visualizers with their folders."""
    kinds = [ManagerMixin]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        kind._instance_dict.clear()


def run(cfg: Config) -> None:
    """Train, validate, save; resume; test.

    Args:
        cfg: Shortened; its work dir does not exist yet.
    """
    if cfg.get('train_cfg'):
        train(copy.deepcopy(cfg))
        resumed = copy.deepcopy(cfg)
        set_length(resumed, resumed=True)
        resumed.resume, resumed.load_from = True, None
        train(resumed)
        cfg.load_from = find_latest_checkpoint(cfg.work_dir)
    if cfg.get('test_cfg') is not None:
        forget()
        launch.build_runner(cfg).test()


def train(cfg: Config) -> None:
    """Run a training to its end; it must have saved a checkpoint and its loss must be finite."""
    forget()
    runner = launch.build_runner(cfg)
    runner.train()
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert math.isfinite(loss), f'the loss is {loss}'
    assert runner.iter == runner.max_iters, f'{runner.iter} iterations of {runner.max_iters}'
    if not cfg.get('resume'):
        assert find_latest_checkpoint(cfg.work_dir), 'no checkpoint was saved'
    if cfg.get('val_cfg') is not None:
        assert any(key.startswith('val/') for key in runner.message_hub.log_scalars), 'nothing was validated'
