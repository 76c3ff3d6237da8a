"""What tests run on the pretended GPU. Each job returns where a step waited, for training and for the test."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing.dummy
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import mmengine.runner.runner
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.utils.dl_utils import collect_env
from mmrotate.evaluation.functional import mean_ap
from standins import overrides, rehearsal, weights
from yapf.yapflib import yapf_api

from mmplugins.utils.running import launch

from . import hosts
from .device import DEVICE, OnDevice
from .waits import WAITS, Wait

ROOT = Path(__file__).resolve().parents[2]


class Watch(Hook):
    """Keeps what the last step of training and of the test waited for, hooks included."""

    def __init__(self) -> None:
        self.waits: dict[str, Counter[Wait]] = {}

    def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode: str = 'train') -> None:
        self.waits[mode] = WAITS.take()
        for sample in outputs or () if mode == 'test' else ():
            for name, value in getattr(sample, 'pred_instances', {}).items():
                # Some fields of the hosts' are containers around a tensor.
                assert getattr(value, 'device', DEVICE) == DEVICE, f'{name} of the predictions is on {value.device}'


def start(world: Path) -> None:
    """Prepare the process of the jobs; they run in the folder ``world``, where stand-ins of data may lie."""
    os.chdir(world)
    os.environ['TORCH_HOME'] = str(world / 'torch')
    hosts.prepare()
    # The layout of a config's text, and questions about the machine, take longer than the steps.
    yapf_api.FormatCode = lambda text, **kwargs: (text, True)
    mmengine.runner.runner.collect_env = functools.cache(collect_env)
    mean_ap.get_context = lambda method: multiprocessing.dummy  # processes import all hosts anew


@contextlib.contextmanager
def on_device() -> Iterator[None]:
    """Have the device, and mmengine's runner take it for the best one."""
    here = mock.patch('mmengine.runner.runner.get_device', return_value=str(DEVICE))
    # The threads of autograd know no mode.
    with OnDevice(), here, torch.autograd.set_multithreading_enabled(False):
        yield


def read(config: Path) -> Config:
    """Read a config as the rehearsal does."""
    name = f'{config.parent.name}/{config.stem}'
    rows = overrides.rows_of(name)
    options = {key: value for row in rows for key, value in row.options.items()}
    cfg = rehearsal.load(config, Path('runs', config.stem).absolute(), options)
    rehearsal.shorten(cfg, max((row.shrink for row in rows), default=1))
    return cfg


def train_and_test(config: Path, options: dict | None = None) -> dict[str, Counter[Wait]]:
    """Train a config for two iterations, if it trains, and test it: loss, backward, optimizer, hooks, predict, metric.

    Without mixed precision: a device of Python has no autocast. ``options`` are as of ``--cfg-options``.
    """
    cfg = read(config)
    cfg.merge_from_dict(options or {})
    weights.Weights(ROOT, read).provide(cfg)
    if (cfg.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper = dict(cfg.optim_wrapper, type='OptimWrapper')
        cfg.optim_wrapper.pop('loss_scale', None)
        cfg.optim_wrapper.pop('dtype', None)
    for node in rehearsal.dicts([*(cfg.get('custom_hooks') or [])]):
        if 'autocast' in node:
            node.autocast = None
    cfg.log_level, cfg.default_hooks.checkpoint = 'ERROR', None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    rehearsal.forget()
    watch = Watch()
    with on_device():
        runner = launch.build_runner(cfg)
        runner.register_hook(watch, 'LOWEST')
        if cfg.get('train_cfg'):
            runner.train()
        WAITS.take()
        if cfg.get('test_cfg') is not None:
            runner.test()
    return watch.waits


def invert(config: Path) -> set[str]:
    """Invert a picture with an editor, and return where the tensors of the inversion are."""
    cfg = read(config)
    weights.Weights(ROOT, read).provide(cfg)
    with on_device():
        editor = MODELS.build(cfg.model).to(DEVICE)
        inversion = editor.invert(torch.rand(1, 3, 64, 64, device=DEVICE), 'a cat', ['a dog'])
    return {str(value.device) for value in inversion.tensors().values()}


def evaluate(line: str) -> dict[str, int]:
    """Run a line of code on ``gpu`` and ``cpu``, three numbers each, and return how often it waited, by kind."""
    with on_device():
        names = dict(torch=torch, cpu=torch.arange(3.0), gpu=torch.arange(3.0, device=DEVICE))
        WAITS.take()  # of earlier jobs
        eval(line, names)
    return {wait.kind: count for wait, count in WAITS.take().items()}
