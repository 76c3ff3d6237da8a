"""METR through the host's Runner: train, evaluate, resume, infer, several processes, bad input."""

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
from mmengine.runner import Runner

CONFIG = 'configs/metr/metr_dino-r18_1xb4-10e_samples.py'


@pytest.fixture
def sample_cfg(repo, tmp_path):
    """Return a function that gives the sample config, cut to a few small images, without randomness but the weights'.

    mmengine does not store the state of the random generators, so only without denoising and flips can a resumed run,
    or a run of two processes, be compared with one that was not interrupted.
    """

    def make(name: str = CONFIG, images: int = 8, epochs: int = 2, **options) -> Config:
        cfg = Config.fromfile(repo / name)
        cfg.work_dir = str(tmp_path / 'work')
        cfg.launcher = 'none'
        cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
        cfg.param_scheduler = []
        for dataloader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            dataloader.update(num_workers=0, persistent_workers=False)
            for part in dataloader.dataset.get('datasets', dict(all=dataloader.dataset)).values():
                part.indices = images // 2
        for pipeline in (cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline):
            for step in pipeline:
                step.update(dict(scale=(96, 72)) if step.type == 'Resize' else {})
        cfg.train_dataloader.dataset.pipeline[2].prob = [0.0, 0.0, 0.0]
        if 'dn_cfg' in cfg.model:
            cfg.model.dn_cfg = None
        cfg.merge_from_dict(options)
        return cfg

    return make


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint."""
    return torch.load(path, weights_only=False)['state_dict']


@pytest.mark.parametrize('kind', ['dino', pytest.param('deformable-detr', marks=pytest.mark.slow)])
def test_train_resume_and_infer(sample_cfg, kind, tmp_path, bccd):
    name = CONFIG.replace('dino', kind)
    runner = Runner.from_cfg(sample_cfg(name))
    runner.train()
    for dataset in ('bccd_cells', 'bccd_platelets'):
        assert 0 <= runner.message_hub.get_scalar(f'val/{dataset}/coco/bbox_mAP_50').current() <= 1
    assert runner.message_hub.get_scalar('train/loss_cem').current() > 0

    # Uninterrupted, and stopped after the first epoch.
    cfg = sample_cfg(name, work_dir=str(tmp_path / 'resumed'))
    cfg.update(resume=True, load_from=str(tmp_path / 'work/epoch_1.pth'))
    Runner.from_cfg(cfg).train()
    expected = weights(tmp_path / 'work/epoch_2.pth')
    resumed = weights(tmp_path / 'resumed/epoch_2.pth')
    assert expected.keys() == resumed.keys()
    for key, value in expected.items():
        assert torch.equal(value, resumed[key]), key

    # The checkpoint is all that the inferencer needs; it knows the names.
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(weights=str(tmp_path / 'work/epoch_2.pth'), device='cpu', show_progress=False)
    assert inferencer.visualizer.dataset_meta['classes'] == ('red blood cell', 'white blood cell', 'platelets')
    image = str(next((bccd / 'val').glob('*.jpg')))
    result = inferencer(image, out_dir=str(tmp_path / 'drawn'), pred_score_thr=0.0)
    assert len(result['predictions'][0]['labels']) == 100
    assert list((tmp_path / 'drawn/vis').glob('*.jpg'))
    # Other names at test time; "cell" is no name of the training.
    inferencer.model.set_vocabulary(['platelets', 'person'])
    result = inferencer(image, out_dir=str(tmp_path / 'drawn2'), pred_score_thr=0.0)
    assert set(result['predictions'][0]['labels']) <= {0, 1}
    assert inferencer.visualizer.dataset_meta['classes'] == ('platelets', 'person')


def test_plain_dino_on_two_vocabularies(sample_cfg):
    """Reuse: data set and metric with the host's detector."""
    cfg = sample_cfg('configs/metr/dino-r18_1xb4-10e_samples.py', epochs=1)
    cfg.model.dn_cfg = dict(label_noise_scale=0.5, box_noise_scale=1.0, group_cfg=dict(num_dn_queries=4))
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 0 <= runner.message_hub.get_scalar('val/bccd_platelets/coco/bbox_mAP_50').current() <= 1


def test_model_and_data_disagree(sample_cfg):
    cfg = sample_cfg()
    cfg.model.vocabulary = dict(datasets=dict(bccd_cells=('red blood cell', 'white blood cell')))
    with pytest.raises(ValueError, match=r'model has 2 names.*train_dataloader 3 classes.*row 2'):
        Runner.from_cfg(cfg).train()


def test_unknown_dataset_in_model(sample_cfg):
    cfg = sample_cfg()
    names = ('red blood cell', 'white blood cell', 'platelets')
    cfg.model.vocabulary = dict(datasets=dict(other=names))
    with pytest.raises(KeyError, match='bccd_'):
        Runner.from_cfg(cfg).train()


def test_diverged_training_leaves_no_checkpoint(sample_cfg, tmp_path):
    cfg = sample_cfg()
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e30))
    with pytest.raises((ValueError, AssertionError), match='NaN|infinite|nan'):
        Runner.from_cfg(cfg).train()
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_bad_images_are_skipped(sample_cfg, bccd, tmp_path):
    """A truncated and a missing image do not end the training."""
    root = tmp_path / 'bccd'
    root.mkdir()
    for name in ('annotations', 'val'):
        (root / name).symlink_to(bccd / name)
    (root / 'train').mkdir()
    images = sorted((bccd / 'train').glob('*.jpg'))
    for path in images:
        (root / 'train' / path.name).symlink_to(path)
    listed = json.loads((bccd / 'annotations/cells_train.json').read_text())['images'][:4]
    broken = root / 'train' / listed[0]['file_name']
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(content[: len(content) // 2])
    (root / 'train' / listed[1]['file_name']).unlink()

    cfg = sample_cfg(epochs=1)
    for part in cfg.train_dataloader.dataset.datasets.values():
        part.data_root = str(root)
    Runner.from_cfg(cfg).train()
    log = next(tmp_path.glob('work/*/*.log')).read_text()
    assert log.count('skipped image') == 2
    assert listed[0]['file_name'] in log and listed[1]['file_name'] in log


LOSS_PROBE = """
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
import json, os


@HOOKS.register_module()
class LossProbe(Hook):
    # The mean loss over ranks: each process logs that of its own images only.
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].detach().clone()
        all_reduce(loss, 'mean')
        if runner.rank == 0:
            with open(os.environ['LOSS_PROBE'], 'a') as file:
                file.write(json.dumps(float(loss)) + '\\n')
"""


@pytest.mark.slow
def test_two_processes_train_as_one(sample_cfg, repo, run, tmp_path):
    """2 gloo ranks x 2 images give the loss of 1 process x 4 images, for five steps.

    The global batches are the same images. Sums run in another order, which changes the last bits of float32 (1e-7),
    and AdamW turns the sign of a tiny gradient into a whole step of the learning rate; hence 1e-4 for the first loss,
    before any step, and 2 % after five.
    """
    (tmp_path / 'loss_probe.py').write_text(LOSS_PROBE)
    losses = {}
    for ranks in (1, 2):
        cfg = sample_cfg(images=20, epochs=1)
        cfg.custom_imports.imports = ['mmplugins.metr', 'loss_probe']
        cfg.custom_hooks = [dict(type='LossProbe')]
        # Equal batches need equal image order; the sampler deals images to ranks in turn.
        cfg.train_dataloader.update(batch_size=4 // ranks, batch_sampler=None)
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
        cfg.train_cfg.pop('val_interval')
        cfg.dump(tmp_path / f'cfg{ranks}.py')
        env = dict(LOSS_PROBE=str(tmp_path / f'loss{ranks}'), PYTHONPATH=str(tmp_path), PORT='29631')
        arguments = [tmp_path / f'cfg{ranks}.py', '--work-dir', tmp_path / f'w{ranks}']
        if ranks == 1:
            run(sys.executable, repo / 'tools/train.py', *arguments, env=env, cwd=tmp_path)
        else:
            run('bash', repo / 'tools/dist_train.sh', arguments[0], ranks, *arguments[1:], env=env, cwd=tmp_path)
        losses[ranks] = [json.loads(line) for line in (tmp_path / f'loss{ranks}').read_text().splitlines()]
    assert len(losses[1]) == len(losses[2]) == 5
    np.testing.assert_allclose(losses[2][0], losses[1][0], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[1], rtol=0.02)


@pytest.mark.slow
def test_killed_mim_run_resumes(sample_cfg, tmp_path):
    """``mim train`` from another directory, SIGKILL in the second epoch, ``--resume``, ``mim test``."""
    cfg = sample_cfg(images=40, epochs=3)
    cfg.dump(tmp_path / 'small.py')
    mim = Path(sys.executable).with_name('mim')
    command = [str(mim), 'train', 'mmdet', 'small.py', '--work-dir', 'w']
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with open(tmp_path / 'out.txt', 'w') as out:
        first = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=out, stderr=out, start_new_session=True)
        deadline = time.time() + 240
        while not (tmp_path / 'w/epoch_1.pth').is_file() or not (tmp_path / 'w/last_checkpoint').is_file():
            assert first.poll() is None and time.time() < deadline, (tmp_path / 'out.txt').read_text()[-3000:]
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not (tmp_path / 'w/epoch_3.pth').exists()
    done = subprocess.run([*command, '--resume'], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert 'resumed epoch: 1' in done.stdout + done.stderr
    assert (tmp_path / 'w/epoch_3.pth').is_file()
    test = [str(mim), 'test', 'mmdet', 'small.py', '--checkpoint', 'w/epoch_3.pth']
    done = subprocess.run(test, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert ' coco/bbox_mAP_50' in done.stdout + done.stderr  # of all names in all images, no set's own
