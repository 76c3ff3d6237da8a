"""The small configs through the hosts' Runner: train, test, resume, infer, learn; from other folders by mim."""

import functools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

CLASSIFY = 'configs/dsnet/dsnet-micro_1xb32-40e_clothing10.py'
DETECT = 'configs/dsnet/retinanet_dsnet-micro_dsfpn_1xb8-6e_bccd.py'
PLAIN = 'configs/dsnet/retinanet_dsnet-micro_fpn_1xb8-6e_bccd.py'


@pytest.fixture
def small_cfg(small_cfg):
    """Return the function of the same name, for networks without drop path."""
    return functools.partial(small_cfg, **{'model.backbone.drop_path_rate': 0.0})


@pytest.mark.slow
@pytest.mark.parametrize('name', [CLASSIFY, DETECT], ids=lambda name: Path(name).stem)
def test_train_test_resume(train_and_resume, name):
    train_and_resume(name)


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
            model.load_state_dict(torch.load(checkpoint, weights_only=False)['state_dict'])
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
def test_learns(learn_by_heart):
    assert learn_by_heart(CLASSIFY) > 80


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
def test_mim_from_another_folder(train_by_mim, host, name):
    train_by_mim(host, name)


@pytest.mark.parametrize(
    'name',
    [
        'retinanet_dsnet-tiny_dsfpn_8xb2-12e_coco',
        'mask-rcnn_dsnet-tiny_dsfpn_8xb2-12e_coco',
        'cascade-mask-rcnn_dsnet-small_fpn_8xb2-12e_coco',
    ],
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
