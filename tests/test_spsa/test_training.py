"""The small configs through the hosts' Runner: train, test, resume, infer; half precision; bad data."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

CLASSIFY = 'configs/spsa/spsanet-micro_1xb32-40e_clothing10.py'
REUSE = 'configs/spsa/spsa-mobilenet-v2-x0.25_1xb32-40e_clothing10.py'
DETECT = 'configs/spsa/fcos_spsanet-micro_1xb8-12e_bccd.py'


@pytest.fixture
def small_cfg(repo, tmp_path, monkeypatch):
    """Return a function that gives a config, cut to a few images, without randomness but the weights'.

    It works in a folder that is not the checkout: the configs find their data themselves.
    """
    monkeypatch.chdir(tmp_path)

    def make(name: str, images: int = 8, **options) -> Config:
        cfg = Config.fromfile(repo / name)
        cfg.work_dir = str(tmp_path / 'work')
        cfg.train_cfg.update(max_epochs=2, val_interval=2)
        cfg.param_scheduler = []
        cfg.default_hooks.checkpoint.interval = 1
        for dataloader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            dataloader.batch_size = 4
            # The images of the folder are sorted by class.
            dataloader.dataset.indices = (
                list(range(0, 160, 160 // images)) if 'CustomDataset' in str(dataloader) else images
            )
        pipeline = cfg.train_dataloader.dataset.pipeline
        pipeline[:] = [step for step in pipeline if step.type != 'RandomFlip']
        for step in pipeline:
            if step.type == 'RandomResizedCrop':
                step.update(crop_ratio_range=(1.0, 1.0), aspect_ratio_range=(1.0, 1.0))
        cfg.merge_from_dict(options)
        return cfg

    return make


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint."""
    return torch.load(path, weights_only=False)['state_dict']


@pytest.mark.slow
@pytest.mark.parametrize('name', [CLASSIFY, REUSE, DETECT], ids=lambda name: Path(name).stem)
def test_train_test_resume(small_cfg, name, tmp_path):
    cfg = small_cfg(name)
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert all(loss > 0 for loss in losses)
    # Stopped after the first epoch, and resumed.
    cfg = small_cfg(name, work_dir=str(tmp_path / 'resumed'))
    cfg.update(resume=True, load_from=str(tmp_path / 'work/epoch_1.pth'))
    Runner.from_cfg(cfg).train()
    expected, resumed = weights(tmp_path / 'work/epoch_2.pth'), weights(tmp_path / 'resumed/epoch_2.pth')
    assert expected.keys() == resumed.keys()
    assert not [key for key in expected if 'mixer' in key]  # nothing to store
    for key, value in expected.items():
        torch.testing.assert_close(value, resumed[key], msg=key)


@pytest.mark.slow
def test_the_checkpoint_is_enough_to_infer(small_cfg, repo, tmp_path):
    from mmdet.apis import DetInferencer

    Runner.from_cfg(small_cfg(DETECT)).train()
    inferencer = DetInferencer(weights=str(tmp_path / 'work/epoch_2.pth'), device='cpu', show_progress=False)
    image = str(next((repo / 'tests/data/bccd/val').glob('*.jpg')))
    assert 'labels' in inferencer(image)['predictions'][0]


@pytest.mark.slow
def test_learns(small_cfg):
    """Forty images of two classes are learned by heart in a few steps."""
    cfg = small_cfg(CLASSIFY, images=40)
    cfg.train_cfg.update(max_epochs=8, val_interval=8)
    cfg.train_dataloader.batch_size = 20
    cfg.val_dataloader.dataset.update(data_prefix='train', indices=cfg.train_dataloader.dataset.indices)
    cfg.val_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64)),
        dict(type='PackInputs'),
    ]
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() > 80


@pytest.mark.slow
def test_other_ways_to_train(small_cfg, tmp_path):
    """Accumulated gradients, an average of weights, checkpointed blocks."""
    cfg = small_cfg(CLASSIFY)
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    cfg.model.backbone.with_cp = True
    cfg.model.backbone.mixer.mode = 'agg'
    Runner.from_cfg(cfg).train()
    assert (tmp_path / 'work/epoch_2.pth').is_file()


@pytest.mark.slow
@pytest.mark.parametrize(('host', 'name'), [('mmpretrain', CLASSIFY), ('mmdet', DETECT)])
def test_mim_from_another_folder(small_cfg, run, host, name, tmp_path):
    cfg = small_cfg(name, images=4)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.dump(tmp_path / 'small.py')
    done = run('mim', 'train', host, 'small.py', '--work-dir', 'w', cwd=tmp_path, timeout=600)
    assert 'Saving checkpoint at 1 epochs' in done.stdout
    assert (tmp_path / 'w/epoch_1.pth').is_file()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_gpu_gives_what_the_cpu_gives(dtype):
    from mmplugins.spsa import SPSA

    for mode in ('gate', 'agg'):
        x = torch.randn(2, 64, 32, 32)
        layer = SPSA(64, mode=mode)
        torch.testing.assert_close(layer(x.cuda()).cpu(), layer(x), atol=1e-5, rtol=1e-4)
        with torch.autocast('cuda', dtype=dtype):
            torch.testing.assert_close(layer(x.cuda().to(dtype)).float().cpu(), layer(x), atol=5e-2, rtol=2e-2)
