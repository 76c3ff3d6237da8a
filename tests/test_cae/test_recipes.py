"""The authors' recipes for probes, fine-tuning, detection and segmentation: sizes and numbers of each config."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

FOLDER = Path(__file__).resolve().parents[2] / 'configs/cae'
# Width, blocks, LayerScale of each size.
SIZES = dict(tiny=(192, 12, 0.1), small=(384, 12, 0.1), base=(768, 12, 0.1), large=(1024, 24, 1e-5))
FINETUNE = {  # batch, learning rate, epochs, warm-up, layer decay, drop path
    'cae-v1_vit-base-p16_finetune_32xb128-100e_in1k': (4096, 8e-3, 100, 5, 0.65, 0.1),
    'cae-v1_vit-large-p16_finetune_32xb128-50e_in1k': (4096, 2e-3, 50, 5, 0.75, 0.2),
    'cae-v2_vit-tiny-p16_finetune_8xb128-100e_in1k': (1024, 4e-3, 100, 5, 0.85, 0.0),
    'cae-v2_vit-small-p16_finetune_8xb128-200e_in1k': (1024, 4e-4, 200, 20, 0.75, 0.1),
    'cae-v2_vit-base-p16_finetune_8xb128-100e_in1k': (1024, 2e-4, 100, 5, 0.75, 0.1),
}
LINEAR = {
    'cae-v1_vit-base-p16_linear-probe_8xb2048-90e_in1k': (16384, 6.4),
    'cae-v1_vit-large-p16_linear-probe_8xb2048-90e_in1k': (16384, 6.4),
    'cae-v2_vit-tiny-p16_linear-probe_8xb2048-90e_in1k': (16384, 6.4),
    'cae-v2_vit-small-p16_linear-probe_8xb1024-90e_in1k': (8192, 3.2),
    'cae-v2_vit-base-p16_linear-probe_8xb1024-90e_in1k': (8192, 3.2),
}
DENSE = {  # learning rate, layer decay, drop path, taps
    'cae-v1_vit-base-p16_mask-rcnn_16xb2-1x_coco': (3e-4, 0.75, 0.2, [3, 5, 7, 11]),
    'cae-v1_vit-large-p16_mask-rcnn_16xb2-1x_coco': (2e-4, 0.85, 0.2, [7, 11, 15, 23]),
    'cae-v1_vit-base-p16_upernet_8xb2-160k_ade20k': (3e-4, 0.65, 0.1, [3, 5, 7, 11]),
    'cae-v1_vit-large-p16_upernet_8xb2-160k_ade20k': (4e-5, 0.95, 0.15, [7, 11, 15, 23]),
}
ATTENTIVE = [path.stem for path in sorted(FOLDER.glob('*p16_attentive*'))]


def load(name: str) -> Config:
    return Config.fromfile(FOLDER / f'{name}.py')


@pytest.mark.parametrize('name', sorted(path.stem for path in FOLDER.glob('*_in1k.py')))
def test_last_batch_is_dropped(name):
    assert load(name).train_dataloader.drop_last


def build(cfg: Config, part: str | None = None) -> torch.nn.Module:
    """Build on no device: shapes without numbers, so the large model costs nothing."""
    with torch.device('meta'), DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model if part is None else cfg.model[part])


def batch_size(cfg: Config, name: str) -> int:
    """Images a step, from the name and from the loader, which must agree."""
    gpus, batch = name.split('_')[3].split('-')[0].split('xb')
    assert cfg.train_dataloader.batch_size == int(batch)
    assert cfg.auto_scale_lr.base_batch_size == int(gpus) * int(batch)
    return int(gpus) * int(batch)


@pytest.mark.parametrize('name', [*FINETUNE, *LINEAR, *ATTENTIVE])
def test_encoder_has_its_size_and_1000_classes_come_out(name):
    cfg = load(name)
    width, blocks, scale = SIZES[name.split('_')[1].split('-')[1]]
    model = build(cfg)
    model.eval()
    assert (model.backbone.embed_dims, len(model.backbone.layers)) == (width, blocks)
    assert cfg.model.backbone.get('layer_scale_init_value', 0.1) == scale
    assert model(torch.empty(2, 3, 224, 224, device='meta')).shape == (2, 1000)
    frozen = not any(p.requires_grad for p in model.backbone.parameters())
    assert frozen == ('finetune' not in name)


@pytest.mark.parametrize('name', FINETUNE)
def test_numbers_of_the_fine_tuning(name):
    cfg, (batch, lr, epochs, warmup, decay, drop_path) = load(name), FINETUNE[name]
    optim = cfg.optim_wrapper
    assert (batch_size(cfg, name), optim.optimizer.lr, optim.paramwise_cfg.layer_decay_rate) == (batch, lr, decay)
    assert optim.optimizer.weight_decay == 0.05
    assert cfg.model.backbone.drop_path_rate == drop_path
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == epochs
    assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin == warmup
    assert cfg.param_scheduler[1].eta_min_ratio * lr == pytest.approx(1e-6)
    augments = {one.type: one.alpha for one in cfg.model.train_cfg.augments}
    assert augments == (dict(Mixup=0.2) if 'tiny' in name else dict(Mixup=0.8, CutMix=1.0))
    assert list(cfg.data_preprocessor.mean) == [123.675, 116.28, 103.53]  # as the pretraining, unlike the host's


@pytest.mark.parametrize('name', LINEAR)
def test_numbers_of_the_linear_probe(name):
    cfg, (batch, lr) = load(name), LINEAR[name]
    optimizer = cfg.optim_wrapper.optimizer
    assert (batch_size(cfg, name), optimizer.type, optimizer.lr) == (batch, 'LARS', lr)
    assert lr == pytest.approx(0.1 * batch / 256)
    assert (optimizer.weight_decay, optimizer.momentum, cfg.train_cfg.max_epochs) == (0, 0.9, 90)


@pytest.mark.parametrize('name', ATTENTIVE)
def test_numbers_of_the_attentive_probe(name):
    cfg = load(name)
    optimizer = cfg.optim_wrapper.optimizer
    assert (batch_size(cfg, name), optimizer.type, optimizer.lr) == (8192, 'SGD', 0.4)
    assert optimizer.nesterov  # timm's and the authors' `--opt sgd`
    assert (optimizer.weight_decay, optimizer.momentum, cfg.train_cfg.max_epochs) == (0, 0.9, 90)


@pytest.mark.parametrize('name', [name for name in DENSE if 'base' in name])
def test_class_token_decays_in_dense_tasks(name):
    from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS

    cfg = load(name)
    cfg.model.backbone.arch = dict(embed_dims=24, num_layers=12, num_heads=2, feedforward_channels=24)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = torch.nn.ModuleDict(dict(backbone=MODELS.build(cfg.model.backbone)))
        kind = OPTIM_WRAPPER_CONSTRUCTORS.get(cfg.optim_wrapper.constructor)
        optimizer = kind(dict(optimizer=cfg.optim_wrapper.optimizer), cfg.optim_wrapper.paramwise_cfg)(model).optimizer
    decay = {id(one): group['weight_decay'] for group in optimizer.param_groups for one in group['params']}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:  # the authors look for `cls_token`, but it is called `backbone.cls_token`
            assert decay[id(parameter)] == (0 if parameter.ndim == 1 or key.endswith('.bias') else 0.05), key


@pytest.mark.slow  # imports mmdet and mmseg
@pytest.mark.parametrize('name', DENSE)
def test_numbers_and_maps_of_dense_tasks(name):
    cfg, (lr, decay, drop_path, taps) = load(name), DENSE[name]
    optim = cfg.optim_wrapper
    assert (optim.optimizer.lr, optim.paramwise_cfg.layer_decay_rate) == (lr, decay)
    assert cfg.model.backbone.drop_path_rate == drop_path
    backbone = build(cfg, 'backbone')
    assert backbone.out_indices == taps
    assert backbone.use_rel_pos_bias == ('upernet' in name)
    width = 768 if 'base' in name else 1024
    backbone.eval()
    maps = backbone(torch.empty(1, 3, 96, 160, device='meta'))
    assert [tuple(x.shape) for x in maps] == [(1, width, 6, 10)] * 4
    neck = build(cfg, 'neck')
    neck.eval()
    strides = [x.shape[-1] for x in neck(maps)]
    assert strides[:4] == [40, 20, 10, 5]
