"""FSDP on two gloo ranks, from the launcher, trains as DDP does: the example config of CAE-L, small."""

import socket
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

LARGE = 'configs/cae/cae-v1_vit-large-p16_fsdp_32xb64-1600e_in1k.py'
SMALL = 'configs/cae/cae-v1_vit-tiny-p8_1xb64-20e_clothing10.py'


def small_config(repo: Path, sharded: bool) -> Config:
    """Return two epochs of two steps of the small pretraining; sharded: with what the example config sets."""
    cfg, large = Config.fromfile(repo / SMALL), Config.fromfile(repo / LARGE)
    cfg.model.backbone.update(layer_scale_init_value=0.1)  # as CAE-L has, with its own rule for weight decay
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.indices = 16
    cfg.train_cfg.max_epochs = 2
    cfg.default_hooks.checkpoint.interval = 1
    cfg.param_scheduler = []
    if sharded:
        cfg.strategy = deepcopy(large.strategy)
        cfg.strategy.model_wrapper.auto_wrap_policy.min_num_params = 400_000  # a layer of 445 thousand
        cfg.optim_wrapper = deepcopy(large.optim_wrapper)
        cfg.optim_wrapper.type = 'mmplugins.utils.running.sharded.ShardedOptimWrapper'
        del cfg.optim_wrapper.use_fsdp, cfg.optim_wrapper.loss_scale
    # Large enough that a wrong decay or norm shows; AdamW would make a step of the sign of a gradient that is zero.
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.5, momentum=0.9, weight_decay=0.1)
    cfg.optim_wrapper.clip_grad = dict(max_norm=0.5)
    return cfg


@pytest.fixture(scope='module')
def trained(run, repo, tmp_path_factory) -> dict[str, Path]:
    """Return the work dirs of two epochs with DDP, and with FSDP resumed after the first."""
    folder = tmp_path_factory.mktemp('fsdp')

    def train(name: str, *options: str) -> None:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            env = {'PORT': str(free.getsockname()[1])}
        arguments = [folder / f'{name}.py', '2', '--work-dir', folder / name, *options]
        run('bash', repo / 'tools/dist_train.sh', *arguments, env=env)

    for name in ('ddp', 'fsdp'):
        small_config(repo, name == 'fsdp').dump(folder / f'{name}.py')
    train('ddp')
    train('fsdp', '--cfg-options', 'train_cfg.max_epochs=1')
    train('fsdp', '--resume')
    return {name: folder / name for name in ('ddp', 'fsdp')}


@pytest.mark.slow
@pytest.mark.parametrize('epoch', [1, 2])
def test_fsdp_trains_and_resumes_as_ddp(trained, epoch):
    files = [folder / f'epoch_{epoch}.pth' for folder in trained.values()]
    expected, found = (torch.load(file, weights_only=False)['state_dict'] for file in files)  # our own files
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
