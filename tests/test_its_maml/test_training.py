"""Runs of mmengine's Runner on the drawings: same seed, resume, two processes, hooks, what is refused."""

import logging
import socket
import sys
import warnings
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmplugins.its_maml import CheckEpisodesHook, EpisodicDataset, IntrinsicDimensionHook
from mmplugins.its_maml.hooks import fixed_positions, method_name

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/its_maml/its-maml_conv4-w16_5way-3to1_1xb4-400i_omniglot28.py'


@pytest.fixture
def tiny(tmp_path) -> Config:
    """The small config with 6 updates on smaller images and 4 test tasks."""
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            'model.network.backbone.channels': 4,
            'model.network.head.in_channels': 16,
            'model.test_steps': 2,
            'model.test_attacks.pgd10.steps': 2,
            'train_cfg.max_iters': 6,
            'train_cfg.val_interval': 3,
            'train_dataloader.dataset.queries': 4,
            'val_dataloader.dataset.queries': 4,
            'val_dataloader.dataset.num_episodes': 4,
            'test_dataloader.dataset.queries': 4,
            'test_dataloader.dataset.num_episodes': 4,
            'default_hooks.checkpoint.interval': 3,
            'default_hooks.logger.interval': 1,
            'work_dir': str(tmp_path / 'run'),
        }
    )
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.dataset.pool = 2
    cfg.experiment_name = tmp_path.name  # the loggers of mmengine are global
    return cfg


def weights(folder, step=6):
    return torch.load(Path(folder) / f'iter_{step}.pth', weights_only=False)['state_dict']


@pytest.mark.slow
def test_same_seed_same_weights_and_metrics_and_resume_is_exact(tiny, tmp_path):
    runs = {}
    for name in ('first', 'second'):
        cfg = deepcopy(tiny)
        cfg.work_dir, cfg.experiment_name = str(tmp_path / name), f'{tmp_path.name}_{name}'
        runner = Runner.from_cfg(cfg)
        runner.train()
        runs[name] = runner.test()
    assert runs['first'] == runs['second']
    expected = weights(tmp_path / 'first')
    start = weights(tmp_path / 'first', 3)
    assert any(not torch.equal(value, start[name]) for name, value in expected.items())

    cfg = deepcopy(tiny)
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'resumed'), f'{tmp_path.name}_resumed'
    cfg.resume, cfg.load_from = True, str(tmp_path / 'first/iter_3.pth')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 6
    for name, value in weights(tmp_path / 'resumed').items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.slow
def test_tools_train_with_two_processes_as_with_one(tiny, run, repo, tmp_path):
    file = tmp_path / 'tiny.py'
    tiny.train_cfg.max_iters = 3
    tiny.dump(str(file))
    run(sys.executable, repo / 'tools/train.py', file, '--work-dir', tmp_path / 'one')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    options = ('--cfg-options', 'train_dataloader.batch_size=2')
    command = ('bash', repo / 'tools/dist_train.sh', file, '2', '--work-dir', tmp_path / 'two', *options)
    run(*command, cwd=tmp_path, env=dict(PORT=port))
    one, two = (weights(tmp_path / name, 3) for name in ('one', 'two'))
    for name, value in one.items():
        # Means of two and of four tasks round differently; Adam divides small gradients by their size.
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_log_names_method_order_and_dimension(tiny, tmp_path):
    runner = Runner.from_cfg(tiny)
    runner.train()
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'RobustMAML: second-order' in log
    assert 'ITS-MAML: 5 ways, 3 shots in training, 1 in validation, 4 queries; 531 classes' in log
    for name in ('few_shot/clean', 'few_shot/clean_ci', 'few_shot/pgd10_ci', 'id/pca90', 'id/twonn', 'eta:', 'adv_ce'):
        assert name in log, name


def test_fewer_shots_in_training_are_warned_about(tiny):
    tiny.train_dataloader.dataset.shots = 1
    tiny.val_dataloader.dataset.shots = 2
    runner = Runner.from_cfg(tiny)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    with pytest.warns(UserWarning, match=r'fewer shots than meta-test \(1 < 2\)'):
        CheckEpisodesHook().before_train(runner)


def test_ways_that_differ_from_the_head_are_refused(tiny):
    tiny.test_dataloader.dataset.ways = 4
    runner = Runner.from_cfg(tiny)
    with pytest.raises(ValueError, match='num_classes=5, but episodes have 4 ways'):
        runner.test()


def test_shared_classes_are_warned_about(tiny):
    tiny.val_dataloader.dataset.dataset.part = 'train'
    runner = Runner.from_cfg(tiny)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    with pytest.warns(UserWarning, match='531 classes are in training and validation'):
        CheckEpisodesHook().before_train(runner)


def test_evaluation_leaves_the_meta_parameters(tiny):
    runner = Runner.from_cfg(tiny)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    metrics = runner.test()
    assert all(torch.equal(value, before[name]) for name, value in runner.model.state_dict().items())
    assert 0 <= metrics['few_shot/pgd10'] <= metrics['few_shot/clean'] + 20
    assert metrics['id/pca90'] >= 1 and metrics['few_shot/tasks'] == 4


def test_list_of_images_is_the_same_for_all_shots(omniglot):
    one, five = (EpisodicDataset(omniglot('val'), shots=shots) for shots in (1, 5))
    positions = fixed_positions(one, 20, 50, 0)
    assert (positions == fixed_positions(five, 20, 50, 0)).all()
    assert len(positions) == len(set(positions)) == 20 * 20
    assert len(set(one.labels[positions])) == 20
    assert (positions != fixed_positions(one, 20, 50, 1)).any()


def test_checksum_tells_lists_apart(build, omniglot):
    model = build(double=False)
    dataset = EpisodicDataset(omniglot('val', pool=2), ways=3)
    network = model.learner.classifier
    network.head.fc = torch.nn.Linear(36, 3)
    found = [IntrinsicDimensionHook(num_classes=3, seed=seed).measure(model, dataset) for seed in (0, 0, 1)]
    assert found[0] == found[1] and found[0]['id/images'] != found[2]['id/images']


def test_unknown_estimator_is_named():
    with pytest.raises(ValueError, match=r"got \['hill'\]"):
        IntrinsicDimensionHook(estimators=('hill',))


def test_names_of_the_variants(build):
    attack = dict(type='LinfAttack', eps=0.1)
    names = {
        'ITS-MAML': (build(), 3),
        'R-MAML (plain: no more shots in training than in test)': (build(), 1),
        'MAML': (build(reg_weight=0.0), 1),
        'MAML, 3 training shots': (build(reg_weight=0.0), 3),
        'ITS-MAML (AQ)': (build(clean_weight=0.0), 2),
        'ITS-MAML (ADML)': (build(support_attack=attack, crossed=True), 2),
        'ITS-MAML (R-MAML (TRADES))': (build(reg='trades'), 2),
    }
    assert {name: method_name(model, shots, 1) for name, (model, shots) in names.items()} == {n: n for n in names}


@pytest.fixture(autouse=True)
def quiet():
    """The logs of runs are not those of the tests."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*lr_scheduler.*')
        yield
    logging.getLogger('mmengine').setLevel(logging.WARNING)
