"""Two gloo ranks train as one process with their batches together: a small config of each plugin that trains.

METR and ITS-MAML have a test of their own, PRAE trains detectors of the host only.
"""

import socket
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

CONFIGS = {
    'cae': 'cae-v1_vit-tiny-p8_1xb64-20e_clothing10',
    'dsnet': 'dsnet-micro_1xb32-40e_clothing10',
    'hgkd': 'hgkd_sparse-r18-w16_mae_1xb40-20e_clothing10',
    'o2detr': 'o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav',
    'prompt_tuning_inversion': 'tiny-vae_1xb32-800i_tinted-mnist',
    'spsa': 'spsanet-micro_1xb32-40e_clothing10',
}
STEPS = 2


@pytest.mark.slow
@pytest.mark.parametrize('plugin', CONFIGS)
def test_two_ranks_train_as_one(run, repo, tmp_path, plugin):
    cfg = Config.fromfile(repo / f'configs/{plugin}/{CONFIGS[plugin]}.py')
    cfg.custom_imports.imports = [*cfg.custom_imports.imports, 'same_for_any_ranks']
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='SameForAnyRanks')]
    if plugin == 'o2detr':
        # The number of denoising groups depends on the pictures of a process, as in the host's DINO.
        cfg.model.dn_cfg = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.train_cfg = dict(by_epoch=False, max_iters=STEPS, val_interval=STEPS + 1)
    cfg.param_scheduler = []
    # A mean over ranks rounds otherwise than a mean over a batch, and Adam makes a step of the sign of a tiny gradient.
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01), clip_grad=dict(max_norm=1.0))
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=STEPS)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    weights = []
    for ranks in (1, 2):
        cfg.train_dataloader.batch_size = 4 // ranks
        file, work_dir = tmp_path / f'ranks{ranks}.py', tmp_path / f'ranks{ranks}'
        cfg.dump(file)
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            env = {'PORT': str(free.getsockname()[1]), 'PYTHONPATH': str(Path(__file__).parent / 'tiny')}
        if ranks == 1:
            run(sys.executable, repo / 'tools/train.py', file, '--work-dir', work_dir, env=env, cwd=repo)
        else:
            run('bash', repo / 'tools/dist_train.sh', file, ranks, '--work-dir', work_dir, env=env, cwd=repo)
        checkpoint = torch.load(work_dir / f'iter_{STEPS}.pth', weights_only=False)  # our own file
        weights.append(checkpoint['state_dict'])
    one, two = weights
    assert two.keys() == one.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f'{name} {text}')
