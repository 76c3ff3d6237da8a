"""Pretraining configs: what they say, and one step of each."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

# Architecture, masked patches, epochs, warm-up epochs, images a step: the authors' scripts.
RECIPES = {
    'cae-v1_vit-base-p16_32xb64-300e_in1k': ('base', 98, 300, 10),
    'cae-v1_vit-base-p16_32xb64-800e_in1k': ('base', 98, 800, 20),
    'cae-v1_vit-base-p16_32xb64-1600e_in1k': ('base', 98, 1600, 40),
    'cae-v1_vit-large-p16_32xb64-1600e_in1k': ('large', 98, 1600, 40),
    'cae-v2_vit-tiny-p16_8xb256-300e_in1k': ('tiny', 30, 300, 10),
    'cae-v2_vit-small-p16_8xb256-300e_in1k': ('small', 49, 300, 10),
    'cae-v2_vit-base-p16_8xb256-300e_in1k': ('base', 98, 300, 10),
    'cae-v2_vit-large-p16_8xb256-300e_in1k': ('large', 98, 300, 10),
}
SMALL = ['cae-v1_vit-tiny-p8_1xb64-20e_clothing10', 'cae-v2_vit-tiny-p8_1xb64-20e_clothing10']


@pytest.fixture
def load(repo):
    def load(name):
        init_default_scope('mmpretrain')
        return Config.fromfile(repo / f'configs/cae/{name}.py')

    return load


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(load, name):
    cfg, (arch, masked, epochs, warmup) = load(name), RECIPES[name]
    groups, batch = (int(part) for part in name.split('_')[2].split('-')[0].split('xb'))
    assert cfg.train_dataloader.batch_size == batch and groups * batch == cfg.auto_scale_lr.base_batch_size == 2048
    assert cfg.model.backbone.arch == arch and cfg.model.backbone.drop_path_rate == cfg.model.neck.drop_path_rate == 0.1
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == epochs
    assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin == warmup
    assert cfg.train_dataloader.dataset.pipeline[-2].num_masking_patches == masked
    assert not cfg.get('find_unused_parameters')
    scale = 1e-5 if arch == 'large' else 0.1
    assert {part.get('layer_scale_init_value', 0.1) for part in (cfg.model.backbone, cfg.model.neck)} == {scale}


@pytest.mark.parametrize('name', [*RECIPES, *SMALL])
def test_pipeline_fits_the_model(load, name):
    cfg = load(name)
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    pipeline = Compose(cfg.train_dataloader.dataset.pipeline[1:])
    packed = pipeline(dict(img=image, img_shape=(60, 90)))
    height, width = packed['data_samples'].mask.shape
    assert tuple(cfg.model.neck.grid_size) == (height, width)
    assert tuple(packed['inputs'][0].shape) == (
        3,
        height * cfg.model.backbone.patch_size,
        width * cfg.model.backbone.patch_size,
    )


def build(cfg, lr):
    """Build the model, without the files of the targets, and its optimizer."""
    cfg.model.target_generator.pop('init_cfg', None)
    model = MODELS.build(cfg.model)
    wrapper = cfg.optim_wrapper
    wrapper.type = 'OptimWrapper'  # mixed precision is for GPUs
    wrapper.pop('loss_scale', None)
    wrapper.optimizer.lr = lr
    return model, build_optim_wrapper(model, wrapper)


def batch_of(cfg, size):
    pipeline = Compose(cfg.train_dataloader.dataset.pipeline[1:])
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    samples = [pipeline(dict(img=image, img_shape=(60, 90))) for _ in range(size)]
    return dict(
        inputs=[torch.stack(views) for views in zip(*(sample['inputs'] for sample in samples), strict=True)],
        data_samples=[sample['data_samples'] for sample in samples],
    )


ONE_OF_A_KIND = [name for name in RECIPES if '-800e' not in name and 'base-p16_32xb64-1600e' not in name]


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in ONE_OF_A_KIND if 'v2_vit-large' not in name])
def test_paper_scale_step(load, name):
    cfg = load(name)
    model, optimizer = build(cfg, lr=1e-4)
    before = [
        parameter.clone() for parameter in (model.backbone.ln1.weight, model.neck.regressors[0].cross_attn.q.weight)
    ]
    logs = model.train_step(batch_of(cfg, 1), optimizer)
    assert all(torch.isfinite(value) and value > 0 for value in logs.values())
    after = [model.backbone.ln1.weight, model.neck.regressors[0].cross_attn.q.weight]
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize('name', SMALL)
def test_small_config_learns(load, name):
    cfg = load(name)
    model, optimizer = build(cfg, lr=1e-3)
    model.init_weights()
    data = batch_of(cfg, 4)
    for part in (model.backbone, model.neck):
        part.eval()  # no DropPath, so that the losses can be compared
    losses = [model.train_step(data, optimizer)['loss'].item() for _ in range(4)]
    assert losses[-1] < 0.9 * losses[0]


def test_large_v2_is_the_large_v1_without_a_decoder(load):
    with torch.device('meta'):
        v1, v2 = (
            MODELS.build(load(f'cae-{name}_in1k').model)
            for name in ('v1_vit-large-p16_32xb64-1600e', 'v2_vit-large-p16_8xb256-300e')
        )
    shapes = [
        {name: tuple(p.shape) for name, p in model.named_parameters() if not name.startswith('target')}
        for model in (v1, v2)
    ]
    assert {name for name in shapes[0] if name not in shapes[1]} == {
        n for n in shapes[0] if n.startswith('neck.decoders.')
    }
    assert {name for name in shapes[1] if shapes[1][name] != shapes[0][name]} == {'neck.head.weight', 'neck.head.bias'}


def test_weight_decay_spares_what_has_one_dimension(load):
    cfg = load('cae-v2_vit-tiny-p8_1xb64-20e_clothing10')
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert decay[id(parameter)] == (0.05 if parameter.ndim > 1 else 0), name
    assert decay[id(model.backbone.cls_token)] == decay[id(model.neck.mask_token)] == 0.05


def test_codebook_is_that_of_the_training_photos(repo, tmp_path, load):
    """Told by its spread: it is nearly as good on some of the photos as a codebook that is fitted to these."""
    from mmplugins.cae.targets.codebook import fit_codebook, load_codebook, nearest, random_windows

    photos = sorted((repo / 'tests/data/clothing10/train').glob('*/*'))[::8]
    shipped, patch_size, window = load_codebook('clothing10-p8-k128')
    points = random_windows(photos, (48, 48), patch_size, window, most=100_000, seed=0)
    fresh = fit_codebook(photos, tmp_path / 'fresh.npz', 128, 8, (48, 48))

    def spread(centers):
        return float((points - centers[nearest(points, centers)]).square().mean())

    assert spread(shipped) < 1.2 * spread(fresh)  # fitted to all photos, and still nearly as good on these
    assert load('cae-v1_vit-tiny-p8_1xb64-20e_clothing10').model.neck.num_classes == len(shipped)
