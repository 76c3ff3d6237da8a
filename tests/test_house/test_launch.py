"""tools/train.py, tools/test.py and their launchers, on a model that trains in milliseconds."""

import argparse
import logging
import os
import pickle
import runpy
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import FlexibleRunner

from mmplugins.utils.running import launch
from mmplugins.utils.running.threads import wait_politely, warn_if_busy

TINY = Path(__file__).parent / 'tiny'
CONFIG = TINY / 'tiny.py'


@pytest.fixture
def tiny_args(monkeypatch) -> argparse.Namespace:
    monkeypatch.syspath_prepend(TINY)
    return launch.build_parser('').parse_args([str(CONFIG)])


@pytest.fixture(scope='module')
def tool(run, repo):
    """Run a script of tools/ with the tiny config."""

    def tool(script: str, *args, **kwargs):
        interpreter = 'bash' if script.endswith('.sh') else sys.executable
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        env = {'PYTHONPATH': str(TINY), 'PORT': port}
        return run(interpreter, repo / 'tools' / script, CONFIG, *args, env=env, **kwargs).stdout

    return tool


@pytest.fixture(scope='module')
def trained(tool, tmp_path_factory) -> Path:
    """Work dir of an uninterrupted run of four epochs in one process."""
    work_dir = tmp_path_factory.mktemp('trained')
    tool('train.py', '--work-dir', work_dir)
    return work_dir


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    # Optimizer state and message hub hold numpy scalars, so only our own file is loaded without weights_only.
    return torch.load(work_dir / 'epoch_4.pth', weights_only=False)['state_dict']


def test_training_learns(trained):
    line = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    error = (weights(trained)['layer.weight'] - line).abs().max().item()
    assert error < 1.5  # a fresh layer is off by 4


def test_resume_equals_uninterrupted_run(trained, tool, tmp_path):
    output = tool('train.py', '--work-dir', tmp_path, '--resume', trained / 'epoch_2.pth')
    assert 'resumed epoch: 2' in output
    # mmengine says so when it has to load a checkpoint by executing code from it.
    assert 'Could not safely load' not in output
    for name, value in weights(trained).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    'runner', [(), ('strategy.type=SingleDeviceStrategy',), ('runner_type=Runner',)], ids=['ours', 'flexible', 'host']
)
def test_resume_starts_from_the_weights_of_the_config_and_then_goes_on(repo, monkeypatch, tmp_path, runner):
    monkeypatch.syspath_prepend(TINY)
    monkeypatch.setenv('GOMP_SPINCOUNT', '10000')  # the tool sets it
    base = tmp_path / 'base.pth'
    torch.save({'state_dict': {'layer.weight': torch.full((1, 4), 5.0), 'layer.bias': torch.full((1,), 5.0)}}, base)

    def train(work_dir: Path, epochs: int, *options: str) -> dict:
        name = f'experiment_name={tmp_path.name}_{work_dir.name}_{epochs}'  # else runs of one second share their state
        changes = ('--cfg-options', f'train_cfg.max_epochs={epochs}', f'load_from={base}', name, *runner)
        monkeypatch.setattr(sys, 'argv', ['train.py', str(CONFIG), '--work-dir', str(work_dir), *options, *changes])
        runpy.run_path(str(repo / 'tools/train.py'), run_name='__main__')
        return torch.load(work_dir / f'epoch_{epochs}.pth', weights_only=False)['state_dict']  # our own file

    written = []
    for epochs in (1, 2):  # the second time there is a checkpoint to go on from
        expected = train(tmp_path / f'whole{epochs}', epochs)
        found = train(tmp_path / 'resumed', epochs, '--resume')
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        written.append((tmp_path / 'resumed/epoch_1.pth').stat().st_mtime_ns)
    assert written[0] == written[1]  # the first epoch was not done again


def test_two_gloo_ranks_equal_one_process(trained, tool, tmp_path):
    options = ('--cfg-options', 'train_dataloader.batch_size=2')
    tool('dist_train.sh', '2', '--work-dir', tmp_path, *options, cwd=tmp_path)
    # The sampler deals samples out in turn, so the global batches are the same four samples. The mean over two
    # ranks adds in another order than the mean over four samples: float32 rounding, about 1e-7 per step.
    for name, value in weights(trained).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=0, atol=1e-5)


@pytest.fixture
def programs(tmp_path):
    """A folder for PATH with what the launchers need, and two programs that show what they were called with."""
    for name in ('bash', 'dirname', 'getconf'):
        (tmp_path / name).symlink_to(shutil.which(name))
    for name in ('python', 'srun'):
        path = tmp_path / name
        path.write_text(f'#!{shutil.which("bash")}\necho "$OMP_NUM_THREADS|${{MASTER_PORT:-}}|$*"\n')
        path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(('threads', 'expected'), [(None, str(max(1, (os.cpu_count() or 1) // 2))), ('3', '3')])
def test_cores_are_shared_by_processes_also_where_there_is_no_nproc(run, repo, programs, threads, expected):
    env = dict(PATH=str(programs), PYTHON='python', OMP_NUM_THREADS=threads or '')
    said = run('bash', repo / 'tools/dist_train.sh', CONFIG, '2', env=env).stdout
    assert said.split('|')[0] == expected and '--nproc-per-node 2' in said


def test_jobs_of_a_cluster_do_not_share_a_port(run, repo, programs):
    def port(**env: str) -> str:
        command = ('bash', repo / 'tools/slurm_train.sh', 'partition', 'name', CONFIG)
        return run(*command, env=dict(PATH=str(programs), **env)).stdout.split('|')[1]

    assert port(MASTER_PORT='29501') == '29501'
    drawn = {port() for _ in range(3)}
    assert len(drawn) > 1 and all(20000 <= int(each) < 40000 for each in drawn)


@pytest.mark.slow
def test_distributed_test_writes_predictions_in_order(trained, tool, tmp_path):
    out = tmp_path / 'predictions.pkl'
    tool('dist_test.sh', trained / 'epoch_4.pth', '2', '--work-dir', tmp_path, '--out', out)
    predictions = pickle.loads(out.read_bytes())
    layer = weights(trained)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 4, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 3.0, -4.0])
    expected = (x @ layer['layer.weight'][0] + layer['layer.bias'] - y).abs()
    torch.testing.assert_close(torch.stack([p['error'] for p in predictions]), expected, rtol=0, atol=1e-5)


def test_strategy_selects_flexible_runner(tiny_args, tmp_path):
    cfg = launch.load_config(tiny_args)
    cfg.merge_from_dict({'work_dir': str(tmp_path), 'strategy': {'type': 'SingleDeviceStrategy'}})
    runner = launch.build_runner(cfg)
    assert isinstance(runner, FlexibleRunner)
    runner.train()
    assert (tmp_path / 'epoch_4.pth').is_file()


def test_missing_package_names_the_install_line(run, repo):
    done = run(sys.executable, '-I', '-S', repo / 'tools/train.py', CONFIG, check=False)  # -S: no site-packages
    assert done.returncode == 1
    assert 'pip install --no-build-isolation -e .' in done.stdout


def test_missing_config_is_named(tiny_args):
    tiny_args.config = 'configs/absent.py'
    with pytest.raises(SystemExit, match='Config not found: configs/absent.py'):
        launch.load_config(tiny_args)


def test_work_dir_defaults_to_the_name_of_the_config(tiny_args):
    assert launch.load_config(tiny_args).work_dir == 'work_dirs/tiny'


def test_work_dir_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit, match='cannot be written'):
        launch.check_work_dir(str(tmp_path / 'file' / 'run'))


def test_amp_without_gpu_is_refused(tiny_args, monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    with pytest.raises(SystemExit, match='--amp needs a GPU'):
        launch.enable_amp(launch.load_config(tiny_args))


def test_amp_keeps_the_optimizer(tiny_args, monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    cfg = launch.load_config(tiny_args)
    launch.enable_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.optimizer.type == 'SGD'


def test_auto_scale_lr_needs_a_base(tiny_args):
    cfg = launch.load_config(tiny_args)
    launch.enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    cfg.pop('auto_scale_lr')
    with pytest.raises(SystemExit, match='base_batch_size'):
        launch.enable_auto_scale_lr(cfg)


def test_slurm_without_gpu_is_refused(tiny_args, monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    tiny_args.launcher = 'slurm'
    with pytest.raises(SystemExit, match='slurm needs GPUs'):
        launch.build_runner(launch.load_config(tiny_args))


@pytest.mark.parametrize(
    ('hook', 'expected'),
    [
        ('DetVisualizationHook', {'draw': True, 'test_out_dir': 'pictures'}),
        ('mmseg.SegVisualizationHook', {'draw': True}),
        ('VisualizationHook', {'enable': True, 'out_dir': 'pictures'}),
    ],
)
def test_pictures_are_spelled_as_the_host_does(tiny_args, hook, expected):
    cfg = launch.load_config(tiny_args)
    cfg.merge_from_dict({'default_hooks.visualization.type': hook, 'visualizer.type': 'Visualizer'})
    launch.enable_pictures(cfg, 'pictures')
    assert {key: cfg.default_hooks.visualization.get(key) for key in expected} == expected
    assert cfg.visualizer.get('save_dir') == ('pictures' if 'Seg' in hook else None)


def test_user_decides_how_threads_wait(monkeypatch):
    monkeypatch.setenv('OMP_WAIT_POLICY', 'ACTIVE')
    monkeypatch.delenv('GOMP_SPINCOUNT', raising=False)
    wait_politely()
    assert 'GOMP_SPINCOUNT' not in os.environ
    monkeypatch.delenv('OMP_WAIT_POLICY')
    monkeypatch.setenv('GOMP_SPINCOUNT', '7')
    wait_politely()
    assert os.environ['GOMP_SPINCOUNT'] == '7'


@pytest.mark.parametrize(('load', 'threads', 'said'), [(1e6, '2', True), (1e6, '1', False), (0, '2', False)])
def test_busy_machine_is_named(monkeypatch, caplog, load, threads, said):
    monkeypatch.setattr(os, 'getloadavg', lambda: (load, 0, 0))
    monkeypatch.setenv('OMP_NUM_THREADS', threads)
    warn_if_busy(logging.getLogger('busy'))
    assert ('OMP_NUM_THREADS=1' in caplog.text) is said


def test_views_need_a_model_and_a_pipeline():
    cfg = Config(dict(model=dict(type='A'), test_dataloader=dict(dataset=dict(dataset=dict(pipeline=[1])))))
    with pytest.raises(SystemExit, match='--tta needs tta_model and tta_pipeline'):
        launch.enable_views(cfg)
    cfg.merge_from_dict(dict(tta_model=dict(type='B'), tta_pipeline=[2]))
    launch.enable_views(cfg)
    assert cfg.model == dict(type='B', module=dict(type='A'))
    assert cfg.test_dataloader.dataset.dataset.pipeline == [2]
