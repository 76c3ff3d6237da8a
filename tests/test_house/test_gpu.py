"""DDP on one card, with the collective operations of the device, and the launcher."""

import socket

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope

CONFIG = 'configs/spsa/spsanet-micro_1xb32-40e_clothing10.py'


@pytest.fixture
def group(device, tmp_path):
    """A process group of one rank: NCCL on CUDA, gloo on the CPU."""
    backend = {'cpu': 'gloo', 'cuda': 'nccl'}[device]
    dist.init_process_group(backend, init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ddp_gives_the_gradients_of_the_model(parity, device, group, repo):
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(repo / CONFIG).model)
    expected = parity.step(model, parity.classify, device)
    model.to(device)
    ddp = MMDistributedDataParallel(model, device_ids=[0] if device == 'cuda' else None)
    ddp.data_preprocessor = model.data_preprocessor
    losses = parity.classify(ddp, device)
    losses['loss'].backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    found = {name: value.detach().cpu() for name, value in {**losses, **found}.items()}
    parity.assert_same(found, expected, tolerance=1e-4)


@pytest.mark.slow
def test_the_launcher_trains(device, run, repo, tmp_path):
    """One rank: on CUDA it takes NCCL and the card."""
    options = ('train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=64', 'train_dataloader.num_workers=0')
    options += (
        'train_dataloader.persistent_workers=False',
        'val_dataloader=None',
        'val_cfg=None',
        'val_evaluator=None',
    )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        env = dict(PORT=str(free.getsockname()[1]), **({} if device == 'cuda' else dict(CUDA_VISIBLE_DEVICES='')))
    run('bash', repo / 'tools/dist_train.sh', CONFIG, 1, '--work-dir', tmp_path, '--cfg-options', *options, env=env)
    weights = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']  # our own file
    assert all(value.isfinite().all() for value in weights.values())
