"""FSDP on two gloo ranks, from the launcher, trains as DDP does: the example config of CAE-L, small."""

import multiprocessing
import socket
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import nn

from mmplugins.utils.running.sharded import ShardedOptimWrapper

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
    cfg.optim_wrapper.clip_grad = dict(max_norm=0.5, norm_type=2)
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


CLIPS = [
    dict(max_norm=0.5),
    dict(type='norm', max_norm=0.5, norm_type=2, error_if_nonfinite=True, foreach=False),
    dict(max_norm=0.5, norm_type=1),
    dict(max_norm=0.5, norm_type=3),
    dict(max_norm=0.5, norm_type='inf'),
    dict(max_norm=1e3),
    dict(type='value', clip_value=0.2),
]


def clipped(wrapper: type, owned: slice, clip: dict) -> list[torch.Tensor]:
    """Return the gradients that a process owns after ``clip_grad``."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(size)) for size in (3, 5, 2, 7)]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer = torch.optim.SGD([*parameters[owned], nn.Parameter(torch.zeros(1))])  # one without a gradient
    wrapper(optimizer, clip_grad=dict(clip))._clip_grad()
    return [parameter.grad for parameter in parameters[owned]]


@pytest.mark.parametrize('ends', [(2, 4), (4, 4)], ids=['each owns a half', 'one owns all'])
def test_clips_as_one_process_does(tmp_path, ends):
    expected = [clipped(OptimWrapper, slice(None), clip) for clip in CLIPS]

    def clip_part(rank: int) -> None:
        torch.distributed.init_process_group('gloo', f'file://{tmp_path}/store', rank=rank, world_size=2)
        owned = slice((0, *ends)[rank], ends[rank])
        torch.save([clipped(ShardedOptimWrapper, owned, clip) for clip in CLIPS], tmp_path / f'{rank}.pth')

    processes = [multiprocessing.get_context('fork').Process(target=clip_part, args=(rank,)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    parts = [torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1)]
    for clip, whole, first, second in zip(CLIPS, expected, *parts, strict=True):
        torch.testing.assert_close(first + second, whole, msg=str(clip))


def test_a_norm_that_is_not_finite_is_an_error_where_the_config_says_so():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, float('nan')])
    clip = dict(max_norm=1.0, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match='norm of the gradients is nan'):
        ShardedOptimWrapper(torch.optim.SGD([parameter]), clip_grad=clip)._clip_grad()
