"""Teacher, hook and student together: through the Runner, on two processes, killed and resumed."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from mmplugins.hgkd import TeacherProvider
from mmplugins.hgkd.teachers.loading import build_teacher, fingerprint

COUNTER = itertools.count()
CONFIG = 'configs/hgkd/hgkd_sparse-r18-w16_mae_1xb40-20e_clothing10.py'


@pytest.fixture
def small_cfg(repo, tmp_path):
    """Return a function that gives the small config, cut to a few images and epochs, a loss in each log line."""

    def make(images: int = 8, epochs: int = 2, work: str = 'work', **options) -> Config:
        cfg = Config.fromfile(repo / CONFIG)
        cfg.work_dir = str(tmp_path / work)
        cfg.launcher = 'none'
        cfg.experiment_name = f'training{next(COUNTER)}'  # runners of one second would share a message hub
        cfg.train_cfg.max_epochs = epochs
        cfg.train_dataloader.batch_size = 4
        cfg.train_dataloader.dataset.indices = images
        cfg.model.backbone.update(base_channels=8, stem_channels=8)
        cfg.model.neck.feature_dim = 64
        cfg.param_scheduler = []
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'NearestNeighborHook']  # takes seconds
        cfg.default_hooks.logger.interval = 1
        cfg.merge_from_dict(options)
        return cfg

    return make


def losses(runner: Runner) -> list[float]:
    return runner.message_hub.get_scalar('train/loss_distill').data[0].tolist()


@pytest.mark.slow
def test_student_learns_from_the_shipped_teacher(small_cfg, tmp_path):
    cfg = small_cfg(images=16, epochs=6)
    runner = Runner.from_cfg(cfg)
    number = sum(parameter.numel() for parameter in runner.model.parameters())
    runner.train()
    log = runner.message_hub.get_scalar
    assert losses(runner)[-1] < 0.9 * losses(runner)[0]
    assert log('train/distill_target_std').current() == pytest.approx(1, abs=0.01)
    assert log('train/distill_cosine').data[0][-1] > log('train/distill_cosine').data[0][0]
    checkpoint = torch.load(tmp_path / 'work/epoch_6.pth', weights_only=False)
    assert not [key for key in checkpoint['state_dict'] if 'teacher' in key]
    optimized = sum(value['exp_avg'].numel() for value in checkpoint['optimizer']['state'].values())
    assert optimized == number  # every parameter of the student got a gradient, and nothing else


def test_without_the_hook_the_error_names_it(small_cfg):
    cfg = small_cfg()
    cfg.custom_hooks = []
    with pytest.raises(RuntimeError, match='GenerativeDistillHook'):
        Runner.from_cfg(cfg).train()


def test_pixel_student_has_nothing_to_distill(small_cfg):
    cfg = small_cfg()
    cfg.model.update(
        neck=dict(type='HGKDUNetDecoder', feature_dim=64, out_stride=1, norm_cfg=dict(type='BN')),
        head=None,
        pixel_head=dict(type='SparKPretrainHead', loss=dict(type='PixelReconstructionLoss', criterion='L2')),
        pixel_weight=1.0,
    )
    with pytest.raises(ValueError, match='no head that compares features'):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize(('row', 'column'), [(0, 3), (3, 1)])
def test_error_at_a_token_reaches_the_image_there(small_cfg, make_vit, row, column):
    """The grids of teacher and student are the same way round: image of 4 x 6 tokens, all of it visible."""
    cfg = small_cfg()
    model = MODELS.build({**cfg.model, 'out_channels': 32})
    model.eval()
    provider = TeacherProvider(make_vit(), ['layers.1'])
    images = torch.randn(1, 3, 64, 96, requires_grad=True)
    active = torch.ones(1, 1, 2, 3, dtype=torch.bool)
    pred, _ = model.predict_features(images, active)
    target = provider(images, active)
    assert pred.shape == target.shape == (1, 32, 4, 6)
    ((pred - target) ** 2)[:, :, row, column].sum().backward()
    energy = torch.nn.functional.avg_pool2d(images.grad.abs().sum(dim=1), 16)
    assert divmod(int(energy.argmax()), 6) == (row, column)


class EMASpy(Hook):
    """Looks at mmengine's averaged copy of the model after each step."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook').ema_model.module
        self.seen.append((set(ema.state_dict()), ema.__dict__.get('teacher'), runner.model.teacher))


@pytest.mark.parametrize('priority', ['VERY_HIGH', 'VERY_LOW'])
def test_ema_keeps_one_teacher(small_cfg, priority):
    """EMAHook copies the model, with the slot, in its before_run; before or after ours."""
    cfg = small_cfg(images=4, epochs=1)
    cfg.custom_hooks.append(dict(type='EMAHook', priority=priority))
    runner, spy = Runner.from_cfg(cfg), EMASpy()
    runner.register_hook(spy)
    runner.train()
    keys, of_ema, of_model = spy.seen[0]
    assert keys == set(runner.model.state_dict())
    assert of_ema is None and of_model is not None


PROBE = """
import copy, json, os
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmplugins.hgkd.teachers.loading import fingerprint


@HOOKS.register_module()
class Probe(Hook):
    priority = 'VERY_LOW'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        ddp, teacher = runner.model, runner.model.module.teacher.teacher
        ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook').ema_model
        own = {id(parameter) for parameter in ddp.parameters()}
        result = dict(
            wrapper=type(ddp).__name__,
            reduced=ddp._get_ddp_logging_data()['total_parameter_size_bytes'],
            student=sum(p.numel() * p.element_size() for p in ddp.module.parameters() if p.requires_grad),
            teacher_in_ddp=sum(id(parameter) in own for parameter in teacher.parameters()),
            teacher_grads=sum(parameter.grad is not None for parameter in teacher.parameters()),
            none_in_ema=ema.module.teacher is None,
            ema_keys=sorted(ema.module.state_dict()) == sorted(ddp.module.state_dict()),
            sha256=fingerprint(teacher),
            weight=ddp.module.predictor.weight.double().sum().item(),
        )
        with open(f'{os.environ["PROBE"]}{runner.rank}', 'w') as file:
            json.dump(result, file)
"""


@pytest.mark.slow
def test_two_processes(small_cfg, repo, run, tmp_path):
    """DDP reduces the bytes of the student and no more; both ranks have the same teacher, EMA none of its own."""
    (tmp_path / 'probe.py').write_text(PROBE)
    cfg = small_cfg(images=8, epochs=1)
    cfg.custom_imports.imports = ['mmplugins.hgkd', 'probe']
    cfg.custom_hooks += [dict(type='EMAHook'), dict(type='Probe')]
    cfg.train_dataloader.batch_size = 2
    cfg.model.backbone.norm_cfg = cfg.model.enc_dec_norm_cfg = dict(type='BN')
    cfg.dump(tmp_path / 'cfg.py')
    env = dict(
        PROBE=str(tmp_path / 'rank'),
        PYTHONPATH=f'{tmp_path}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
        PORT='29651',
    )
    run(
        'bash',
        repo / 'tools/dist_train.sh',
        tmp_path / 'cfg.py',
        2,
        '--work-dir',
        tmp_path / 'w',
        env=env,
        cwd=tmp_path,
    )
    first, second = (json.loads((tmp_path / f'rank{rank}').read_text()) for rank in (0, 1))
    for found in (first, second):
        assert found['wrapper'] == 'MMDistributedDataParallel'
        assert found['reduced'] == found['student']
        assert found['teacher_in_ddp'] == found['teacher_grads'] == 0
        assert found['none_in_ema'] and found['ema_keys']
    assert first['sha256'] == second['sha256'] and first['weight'] == second['weight']


@pytest.mark.slow
def test_killed_run_resumes_with_the_same_losses(small_cfg, tmp_path):
    """``mim train``, SIGKILL in the second epoch, ``--resume``: masks, crops, weight and losses as uninterrupted."""
    weight = dict(type='cosine', start=1.0, end=0.2, end_at=16, by_epoch=False)
    cfg = small_cfg(images=16, epochs=4, work='whole')
    cfg.custom_hooks[1].weight = weight
    cfg.dump(tmp_path / 'small.py')
    whole = Runner.from_cfg(cfg)
    whole.train()
    mim = Path(sys.executable).with_name('mim')
    command = [str(mim), 'train', 'mmpretrain', 'small.py', '--work-dir', 'w']
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with open(tmp_path / 'out.txt', 'w') as out:
        first = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=out, stderr=out, start_new_session=True)
        deadline = time.time() + 300
        while not (tmp_path / 'w/last_checkpoint').is_file():
            assert first.poll() is None and time.time() < deadline, (tmp_path / 'out.txt').read_text()[-3000:]
            time.sleep(0.01)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not (tmp_path / 'w/epoch_4.pth').exists()
    cfg = small_cfg(images=16, epochs=4, work='w', resume=True)
    cfg.custom_hooks[1].weight = weight
    resumed = Runner.from_cfg(cfg)
    resumed.train()
    assert len(losses(whole)) == 16
    assert losses(resumed) == losses(whole)
    alphas = [runner.message_hub.get_scalar('train/distill_weight').data[0] for runner in (whole, resumed)]
    np.testing.assert_array_equal(*alphas)


def test_shipped_teacher_is_small_and_whole(repo):
    path = repo / 'tests/data/hgkd/mae_clothing10.npz'
    assert path.stat().st_size < 2_000_000
    cfg = Config.fromfile(repo / CONFIG)
    hook = cfg.custom_hooks[1]
    assert len(fingerprint(build_teacher(hook.teacher, hook.checkpoint))) == 64
