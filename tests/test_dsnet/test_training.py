"""The small configs through the hosts' Runner: train, test, resume, infer, learn; from other folders by mim."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

CLASSIFY = 'configs/dsnet/dsnet-micro_1xb32-40e_clothing10.py'
DETECT = 'configs/dsnet/retinanet_dsnet-micro_dsfpn_1xb8-6e_bccd.py'
PLAIN = 'configs/dsnet/retinanet_dsnet-micro_fpn_1xb8-6e_bccd.py'


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
        cfg.model.backbone.drop_path_rate = 0.0
        cfg.merge_from_dict(options)
        return cfg

    return make


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint."""
    return torch.load(path, weights_only=False)['state_dict']


@pytest.mark.slow
@pytest.mark.parametrize('name', [CLASSIFY, DETECT], ids=lambda name: Path(name).stem)
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
    for key, value in expected.items():
        torch.testing.assert_close(value, resumed[key], msg=key)


@pytest.mark.slow
def test_detector_starts_as_that_with_fpn_and_infers(small_cfg, repo, tmp_path):
    """A checkpoint of the detector with FPN goes on with DS-FPN; then the new one is enough to infer."""
    from mmdet.apis import DetInferencer

    Runner.from_cfg(small_cfg(PLAIN)).train()
    plain = tmp_path / 'work/epoch_2.pth'
    cfg = small_cfg(DETECT, work_dir=str(tmp_path / 'ours'), load_from=str(plain))
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    batch = next(iter(runner.train_dataloader))
    losses = []
    for config, checkpoint in ((PLAIN, plain), (DETECT, None)):
        model = runner.model if checkpoint is None else Runner.from_cfg(small_cfg(config)).model
        if checkpoint:
            model.load_state_dict(weights(checkpoint))
        model.eval()
        data = model.data_preprocessor(batch, training=False)
        with torch.no_grad():
            losses.append(torch.stack(model.loss(data['inputs'], data['data_samples'])['loss_cls']).sum())
    assert torch.equal(*losses)
    runner.train()
    inferencer = DetInferencer(weights=str(tmp_path / 'ours/epoch_2.pth'), device='cpu', show_progress=False)
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
def test_recipe_of_the_paper_scale_configs(small_cfg, repo):
    """Average of weights, mixup, cutmix, repeated augmentation: from the config for ImageNet, on a few small images."""
    full = Config.fromfile(repo / 'configs/dsnet/dsnet-tiny_8xb128-300e_in1k.py')
    cfg = small_cfg(CLASSIFY)
    cfg.model.train_cfg = full.model.train_cfg
    cfg.custom_hooks = full.custom_hooks
    cfg.train_dataloader.sampler = full.train_dataloader.sampler
    cfg.model.backbone.update(legacy_drop_path=True, drop_path_rate=0.1, attn_drop_rate=0.1, with_cp=True)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() >= 0


@pytest.mark.slow
@pytest.mark.parametrize(('host', 'name'), [('mmpretrain', CLASSIFY), ('mmdet', DETECT)])
def test_mim_from_another_folder(small_cfg, run, host, name, tmp_path):
    cfg = small_cfg(name, images=4)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.dump(tmp_path / 'small.py')
    done = run('mim', 'train', host, 'small.py', '--work-dir', 'w', cwd=tmp_path, timeout=600)
    assert 'Saving checkpoint at 1 epochs' in done.stdout
    assert (tmp_path / 'w/epoch_1.pth').is_file()


@pytest.mark.parametrize(
    'name', ['retinanet_dsnet-tiny_dsfpn_8xb2-12e_coco', 'mask-rcnn_dsnet-tiny_dsfpn_8xb2-12e_coco']
)
def test_paper_scale_detectors_keep_the_order_of_the_stages(repo, name):
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(repo / f'configs/dsnet/{name}.py')
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
        maps = model.backbone(torch.empty(2, 3, 200, 328))
        assert [y.shape[1] for y in maps] == cfg.model.neck.in_channels
        assert [tuple(y.shape[2:]) for y in maps] == [(50, 82), (25, 41), (13, 21), (7, 11)]
        assert len(model.neck(maps)) == 5


@pytest.mark.slow
def test_paper_scale_segmentor(repo):
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(repo / 'configs/dsnet/upernet_dsnet-small_4xb4-160k_ade20k-512x512.py')
    init_default_scope('mmseg')
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
        assert model(torch.empty(1, 3, 128, 128)).shape == (1, 150, 32, 32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_gpu_gives_what_the_cpu_gives(dtype):
    from mmplugins.dsnet import DSNet

    net = DSNet('tiny', out_norm='none').eval().requires_grad_(False)
    x = torch.randn(2, 3, 96, 128)
    expected = net(x)[0]
    net = net.cuda()
    scale = expected.abs().max()
    torch.testing.assert_close(net(x.cuda())[0].cpu() / scale, expected / scale, atol=1e-3, rtol=0)
    with torch.autocast('cuda', dtype=dtype):
        torch.testing.assert_close(net(x.cuda())[0].float().cpu() / scale, expected / scale, atol=3e-2, rtol=0)
