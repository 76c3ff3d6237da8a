"""What the configs say against the numbers of R-MAML's code and the paper's reviews."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / 'configs/its_maml').glob('*.py'))
EPS = {'mini-imagenet': (4, 2), 'cifar-fs': (10, 8), 'omniglot': (10, 8)}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_name_says_shots_updates_and_order(path):
    cfg = Config.fromfile(path)
    parts = path.stem.split('_')
    shots = next(part for part in parts if part.startswith('5way')).removeprefix('5way-').split('to')
    assert [cfg.train_dataloader.dataset.shots, cfg.test_dataloader.dataset.shots] == [int(each) for each in shots]
    assert cfg.val_dataloader.dataset.shots == cfg.test_dataloader.dataset.shots
    assert path.stem.startswith('its-maml') == (int(shots[0]) > int(shots[1]))
    assert cfg.model.first_order == ('repro' in parts)
    updates = next(part for part in parts if part.startswith('1xb4')).removeprefix('1xb4-').removesuffix('i')
    assert cfg.train_cfg.max_iters == int(updates.replace('k', '000'))
    assert cfg.train_dataloader.batch_size == 4


@pytest.mark.parametrize('data', list(EPS))
def test_recipe_is_that_of_the_code(data):
    cfg = Config.fromfile(ROOT / f'configs/its_maml/r-maml_conv4_repro_5way-1to1_1xb4-15ki_{data}.py')
    train, test = EPS[data]
    model = MODELS.build(cfg.model)
    assert model.attack.eps == pytest.approx(train / 255) and model.attack.steps == 1
    assert model.attack.step_size == pytest.approx(1.25 * train / 255)
    assert model.test_attacks['pgd10'].eps == pytest.approx(test / 255) and model.test_attacks['pgd10'].steps == 10
    assert (model.inner_lr, model.train_steps, model.test_steps) == (0.01, 5, 10)
    assert model.reg_weight == (0.2 if data == 'mini-imagenet' else 1.0)
    assert cfg.optim_wrapper.optimizer == dict(type='Adam', lr=1e-3)
    assert cfg.train_dataloader.dataset.queries == 15


def test_small_configs_differ_in_the_shots_alone():
    its, plain = (
        Config.fromfile(ROOT / f'configs/its_maml/{name}_1xb4-400i_omniglot28.py').to_dict()
        for name in ('its-maml_conv4-w16_5way-3to1', 'r-maml_conv4-w16_5way-1to1')
    )
    assert its['train_dataloader']['dataset'].pop('shots') == 3
    assert plain['train_dataloader']['dataset'].pop('shots') == 1
    assert its == plain


# One config of each kind of network and objective: the others differ in numbers.
KINDS = [
    'its-maml_conv4_5way-7to5_1xb4-15ki_mini-imagenet',
    'its-maml_conv4_5way-3to1_1xb4-15ki_omniglot',
    'r-maml-trades_conv4_5way-1to1_1xb4-7500i_cifar-fs',
    'aq_conv4_5way-1to1_1xb4-15ki_cifar-fs',
    'adml_conv4_5way-1to1_1xb4-15ki_cifar-fs',
    'its-maml_resnet12_5way-3to1_1xb4-15ki_mini-imagenet',
    'its-maml_resnet18_5way-3to1_1xb4-15ki_custom',
    'anil_conv4_5way-1to1_1xb4-15ki_cifar-fs',
    'r-protonet_conv4_5way-1to1_1xb4-15ki_cifar-fs',
    'baseline-plus-plus_conv4_5way-1to1_1xb4-15ki_cifar-fs',
]


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
@pytest.mark.filterwarnings('ignore:.*batch norms')
def test_a_batch_gives_every_weight_a_gradient(name):
    cfg = Config.fromfile(ROOT / f'configs/its_maml/{name}.py')
    cfg.model.train_steps = min(cfg.model.train_steps, 1)
    if 'resnet12' in name:  # the wide one takes seconds
        cfg.model.network.backbone.channels = (8, 16, 24, 32)
        cfg.model.network.head.in_channels = 32
    model = MODELS.build(cfg.model)
    model.init_weights()
    channels, side = {'omniglot': (1, 28), 'cifar-fs': (3, 32)}.get(name.split('_')[-1], (3, 84))
    torch.manual_seed(0)
    losses = model(
        support=torch.rand(1, 5, channels, side, side),
        support_labels=torch.arange(5)[None],
        query=torch.rand(1, 5, channels, side, side),
        query_labels=torch.arange(5)[None],
        seed=torch.tensor([0]),
        classes=torch.arange(5)[None],
        mode='loss',
    )
    losses['loss_meta'].backward()
    assert losses['loss_meta'].isfinite()
    without = [
        name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.isfinite().all()
    ]
    assert not without
    assert sum(weight.grad.abs().sum() > 0 for weight in model.parameters()) > 0.8 * len(list(model.parameters()))
