import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from mmplugins.its_maml.__main__ import main
from mmplugins.its_maml.verbs import report, sweep, view
from mmplugins.its_maml.verbs.evaluation import attack_config, evaluate, set_test, trained_method
from mmplugins.its_maml.verbs.sweep import arm_config

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/its_maml/its-maml_conv4-w16_5way-3to1_1xb4-400i_omniglot28.py'


@pytest.fixture
def config(tmp_path) -> Path:
    """The small config, smaller."""
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            'model.network.backbone.channels': 4,
            'model.network.head.in_channels': 64,
            'model.test_steps': 2,
            'model.test_attacks.pgd10.steps': 2,
            'train_cfg.max_iters': 2,
            'train_cfg.val_interval': 2,
            'train_dataloader.dataset.queries': 3,
            'val_dataloader.dataset.queries': 3,
            'val_dataloader.dataset.num_episodes': 2,
            'test_dataloader.dataset.queries': 3,
            'default_hooks.checkpoint.interval': 2,
        }
    )
    cfg.custom_hooks[1].update(num_classes=3, per_class=10)
    file = tmp_path / 'tiny.py'
    cfg.dump(str(file))
    return file


@pytest.fixture
def checkpoint(config, tmp_path) -> Path:
    model = MODELS.build(Config.fromfile(config).model)
    model.init_weights()
    file = tmp_path / 'iter_2.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), file)
    return file


@pytest.mark.slow
def test_test_writes_a_row_for_each_number_of_shots(config, checkpoint, tmp_path, capsys):
    out = tmp_path / 'report'
    arguments = [str(config), str(checkpoint), '--shots', '1', '2', '--tasks', '3', '--attack', 'fgsm', 'pgd3']
    assert main(['test', *arguments, '--out', str(out)]) == 0
    rows = json.loads((out / 'rows.json').read_text())
    assert [(row['method'], row['train_shots'], row['test_shots']) for row in rows] == [
        ('ITS-MAML', 3, 1),
        ('ITS-MAML', 3, 2),
    ]
    for row in rows:
        assert row['tasks'] == 3 and {'clean_ci', 'fgsm_ci', 'pgd3_ci', 'id_noise', 'id_pca90', 'id_mle'} <= set(row)
        assert row['spectrum'][-1] == pytest.approx(1, abs=1e-4)
    assert len({row['id_images'] for row in rows}) == 1
    assert len(list(csv.DictReader((out / 'table.csv').open()))) == 2
    assert Image.open(out / 'plots.png').width > 500
    assert (out / 'table.md').read_text().strip() in capsys.readouterr().out


@pytest.mark.slow
def test_sweep_runs_the_grid_once(config, tmp_path, capsys):
    out = tmp_path / 'sweep'
    arguments = ['sweep', str(config), '--train-shots', '1', '2', '--reg-weight', '0', '1', '--seeds', '1']
    arguments += ['--tasks', '2', '--out', str(out)]
    assert main(arguments) == 0
    rows = json.loads((out / 'rows.json').read_text())
    assert [(row['method'].split(' (')[0], row['train_shots']) for row in rows] == [
        ('MAML', 1),
        ('MAML, 2 training shots', 2),
        ('R-MAML', 1),
        ('ITS-MAML', 2),
    ]
    assert all(row['config'] == 'tiny' and row['updates'] == 2 and row['seconds'] > 0 for row in rows)
    assert rows[1]['images'] == 2 * 4 * 5 * (2 + 3)
    files = {file: file.stat().st_mtime_ns for file in out.rglob('iter_2.pth')}
    assert len(files) == 4
    assert main(arguments) == 0
    assert {file: file.stat().st_mtime_ns for file in out.rglob('iter_2.pth')} == files

    capsys.readouterr()
    assert main([*arguments, '--tasks', '3']) == 1
    assert 'another config, which differs in test_dataloader: take another --out' in capsys.readouterr().err
    assert main(['report', str(out / 'arms'), '--out', str(tmp_path / 'again')]) == 0
    assert len(json.loads((tmp_path / 'again/rows.json').read_text())) == 4


@pytest.mark.slow
@pytest.mark.parametrize('pretrained', [False, True])
def test_seconds_of_a_training_that_was_killed_are_those_that_led_to_its_weights(
    config, checkpoint, pretrained, tmp_path, monkeypatch
):
    """An update takes ten seconds; the second is lost behind the checkpoint of the first, and done again.

    Weights that a config starts from are not those that it goes on from.
    """
    now, killed = [0.0], []

    def after_train_iter(self, runner, batch_idx, **kwargs):
        now[0] += 10
        if batch_idx == 1 and not killed:
            killed.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(sweep, 'time', SimpleNamespace(process_time=lambda: now[0]))
    monkeypatch.setattr(sweep, 'evaluate', lambda *args: {})
    monkeypatch.setattr(sweep.TrainingClock, 'after_train_iter', after_train_iter)
    cfg = Config.fromfile(config)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.load_from = str(checkpoint) if pretrained else None
    with pytest.raises(KeyboardInterrupt):
        sweep.run_arm(cfg, tmp_path / 'arm')
    assert sweep.run_arm(cfg, tmp_path / 'arm')['seconds'] == 20
    assert sweep.run_arm(cfg, tmp_path / 'arm')['seconds'] == 20 and now == [30]


def test_folder_of_an_arm_is_of_one_config(tmp_path):
    cfg = Config.fromfile(CONFIG)
    folder = tmp_path / 'arm'
    sweep.claim_folder(cfg, folder)
    sweep.claim_folder(Config.fromfile(CONFIG), folder)
    cfg.model.inner_lr = 0.2
    cfg.test_dataloader.dataset.num_episodes = 7
    with pytest.raises(ValueError, match='another config, which differs in model, test_dataloader'):
        sweep.claim_folder(cfg, folder)
    (folder / 'row.json').write_text('{}')
    (folder / 'arm.json').unlink()
    with pytest.raises(ValueError, match='another config'):
        sweep.claim_folder(cfg, folder)


@pytest.mark.slow
def test_view_draws_an_episode(config, checkpoint, tmp_path):
    out = tmp_path / 'episode.png'
    assert main(['view', str(config), str(checkpoint), '--queries', '2', '--out', str(out)]) == 0
    picture = Image.open(out).convert('RGB')
    assert picture.width > 300 and len(picture.getcolors(1 << 20)) > 10


def test_view_loads_all_weights_in_the_mode_of_tests(config, checkpoint, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(view, 'draw_episode', lambda model, *args: drawn.append(model))
    assert main(['view', str(config), str(checkpoint)]) == 0
    assert not any(module.training for module in drawn[0].modules())
    saved = torch.load(checkpoint)
    del saved['state_dict']['learner.classifier.head.fc.bias']
    torch.save(saved, checkpoint)
    assert main(['view', str(config), str(checkpoint)]) == 1
    assert 'of another model than its config' in capsys.readouterr().err


def rows(seeds=(0, 1, 2)):
    return [
        dict(seed=seed, method='R-MAML', train_shots=shots, test_shots=1, reg_weight=1.0, clean=80.0 + seed + shots,
             clean_ci=0.5, pgd10=40.0 + seed, pgd10_ci=0.7, id_pca90=9.0 + shots, spectrum=[0.5, 1.0])
        for shots in (1, 3)
        for seed in seeds
    ]  # fmt: skip


def test_table_gives_means_and_spread_over_seeds():
    table = report.markdown(rows()).splitlines()
    assert len(table) == 4
    assert '| 82.0 ± 1.0 | 41.0 ± 1.0 | 10.0 |' in table[2]
    assert 'seed' not in table[0] and 'spectrum' not in table[0]


def test_of_one_seed_the_interval_over_tasks_is_given():
    assert '| 81.0 ± 0.5 | 40.0 ± 0.7 |' in report.markdown(rows((0,)))


def test_rows_of_other_configs_attacks_and_radii_are_no_seeds(tmp_path):
    """Each is a line of its own, and the plots draw what each has."""
    (one,) = [row for row in rows((0,)) if row['train_shots'] == 1]
    other_attack = {key.replace('pgd10', 'fgsm'): value for key, value in one.items()}
    others = [dict(one, config='b'), dict(one, eps=0.2), dict(one, tasks=7.0), other_attack]
    joined = [*rows(), *others]
    assert [line['runs'] for line in report.summary(joined)] == [3, 3, 1, 1, 1, 1]
    report.write(joined, tmp_path)
    assert len((tmp_path / 'table.md').read_text().splitlines()) == 8
    assert Image.open(tmp_path / 'plots.png').width > 500


def test_curves_are_of_lines_that_differ_in_their_x_alone():
    lines = [
        dict(config=config, train_shots=shots, reg_weight=weight, method='any')
        for config in ('a', 'b') for weight in (0.0, 1.0) for shots in (1, 3)
    ]  # fmt: skip
    found = report.curves(lines, 'train_shots')
    assert list(found) == ['a, λ=0', 'a, λ=1', 'b, λ=0', 'b, λ=1']
    assert all([line['train_shots'] for line in members] == [1, 3] for members in found.values())


def test_report_needs_rows(tmp_path, capsys):
    with pytest.raises(ValueError, match='no results'):
        report.write([], tmp_path)
    assert main(['report', str(tmp_path)]) == 1
    assert re.search('report: .* holds no rows.json', capsys.readouterr().err)


def test_missing_checkpoint_is_one_line(config, capsys):
    assert main(['test', str(config), 'absent.pth']) == 1
    assert capsys.readouterr().err == 'test: no checkpoint at absent.pth\n'


def test_attacks_by_name():
    assert attack_config('pgd20', 0.1) == dict(type='LinfAttack', eps=0.1, steps=20)
    assert attack_config('autoattack', 0.1) == dict(type='TorchAttack', name='AutoAttack', eps=0.1)
    assert attack_config('foolbox:LinfPGD', 0.1) == dict(type='FoolboxAttack', name='LinfPGD', eps=0.1)
    with pytest.raises(ValueError, match="unknown attack 'cw'"):
        attack_config('cw', 0.1)


def test_radius_comes_from_the_config_unless_given():
    cfg = Config.fromfile(CONFIG)
    set_test(cfg, shots=2, tasks=7, attacks=['pgd5'])
    assert cfg.model.test_attacks == dict(pgd5=dict(type='LinfAttack', eps=0.08, steps=5))
    assert (cfg.test_dataloader.dataset.shots, cfg.test_dataloader.dataset.num_episodes) == (2, 7)
    set_test(cfg, eps=0.2)
    assert cfg.model.test_attacks.pgd5.eps == 0.2
    cfg.model.test_attacks = {}
    with pytest.raises(ValueError, match='give --eps'):
        set_test(cfg, attacks=['pgd5'])


def test_radius_alone_keeps_what_the_config_says_of_attacks():
    cfg = Config.fromfile(CONFIG)
    own = dict(type='LinfAttack', eps=0.08, steps=3, step_size=0.01, random_start=False)
    cfg.model.test_attacks = dict(strong=own)
    set_test(cfg, eps=0.04)
    assert cfg.model.test_attacks == dict(strong=dict(own, eps=0.04))
    set_test(cfg, attacks=['fgsm', 'strong'])
    assert cfg.model.test_attacks == dict(fgsm=dict(type='LinfAttack', eps=0.04), strong=dict(own, eps=0.04))
    assert list(cfg.model.test_attacks) == ['fgsm', 'strong']
    cfg.model.test_attacks = {}
    with pytest.raises(ValueError, match='give --attack'):
        set_test(cfg, eps=0.2)


def test_method_and_shots_are_those_of_the_training(config, checkpoint, tmp_path):
    """Not those of the config of the test; a checkpoint that carries none is of that config."""
    cfg = Config.fromfile(config)
    set_test(cfg, shots=1, tasks=1, attacks=['fgsm'])
    row = evaluate(cfg, checkpoint, tmp_path / 'logs')
    assert (row['method'], row['train_shots']) == ('ITS-MAML', 3)
    saved = torch.load(checkpoint)
    trained = Config.fromfile(config)
    trained.merge_from_dict({'model.reg_weight': 0.0, 'train_dataloader.dataset.shots': 2})
    saved['meta'] = dict(cfg=trained.pretty_text)
    torch.save(saved, checkpoint)
    row = evaluate(cfg, checkpoint, tmp_path / 'logs')
    assert (row['method'], row['train_shots'], row['test_shots']) == ('MAML, 2 training shots', 2, 1)


def test_checkpoint_of_another_network_is_not_tested(config, checkpoint, tmp_path, capsys):
    cfg = Config.fromfile(config)
    cfg.model.network.backbone.channels = 8
    cfg.model.network.head.in_channels = 128
    cfg.dump(str(tmp_path / 'other.py'))
    assert main(['test', str(tmp_path / 'other.py'), str(checkpoint), '--out', str(tmp_path / 'out')]) == 1
    assert 'iter_2.pth is of another model than its config' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('change', 'name'),
    [
        (dict(type='RobustProtoNet'), 'ITS-ProtoNet'),
        (dict(clean_weight=0.0), 'ITS-MAML (AQ)'),
        (dict(crossed=True), 'ITS-MAML (ADML)'),
        (dict(reg='trades'), 'ITS-MAML (R-MAML (TRADES))'),
    ],
)
def test_method_is_known_from_the_config(change, name):
    cfg = Config.fromfile(CONFIG)
    cfg.model.update(change)
    assert trained_method(cfg, 1) == name


def test_arm_changes_only_what_it_names():
    cfg = Config.fromfile(CONFIG)
    before = cfg.to_dict()
    arm = arm_config(cfg, train_shots=4, reg_weight=0.0, inner_steps=1, seed=2, updates=7)
    assert cfg.to_dict() == before
    assert arm.train_dataloader.dataset.shots == 4 and arm.train_dataloader.dataset.seed == 2
    assert (arm.model.reg_weight, arm.model.train_steps, arm.randomness.seed, arm.train_cfg.max_iters) == (0.0, 1, 2, 7)
    assert arm.test_dataloader == cfg.test_dataloader and arm.model.test_steps == cfg.model.test_steps
