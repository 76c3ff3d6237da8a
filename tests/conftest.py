"""Fixtures for all tests. Shared helpers are fixtures: other packages install a top-level package `tests`."""

import functools
import gc
import importlib.util
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
# For `experiments` and `results`. Last, because `tools/test.py` has the name of a package of Python's.
sys.path.append(str(ROOT / 'tools'))
# At each `_base_ = 'mmdet::...'` mmengine reads the host's whole model zoo: three quarters of the time of a config.
config_utils.load = functools.cache(config_utils.load)


def pytest_collection_finish() -> None:
    """Let the collector leave alone what was imported: each data set of mmengine that is made starts it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random state, whichever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope='module', autouse=True)
def default_scope() -> None:
    """Forget the default scope that the tests of another file left: bare names would be looked up in its host."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(
    params=[
        'cpu',
        pytest.param(
            'cuda', marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')]
        ),
    ]
)
def device(request, monkeypatch) -> str:
    """Run a test on the CPU, and marked ``gpu`` on CUDA, where float32 then is float32 in convolutions too."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    return request.param


def load_helper(name: str, file: str) -> ModuleType:
    """Import a file of ``tests``, known under ``name`` to what it imports itself."""
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tests' / file)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope='session')
def parity() -> ModuleType:
    """Return the module ``tests/parity.py``."""
    return load_helper('parity', 'parity.py')


@pytest.fixture(scope='session')
def composing() -> ModuleType:
    """Return the module ``tests/composing.py``."""
    return load_helper('composing', 'composing.py')


@pytest.fixture(scope='session')
def standins() -> ModuleType:
    """Return the package ``tests/standins``."""
    return load_helper('standins', 'standins/__init__.py')


@pytest.fixture(scope='session')
def repo() -> Path:
    """Return the root of the checkout."""
    return ROOT


@pytest.fixture(scope='session')
def run() -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs a command and gives its output, stdout and stderr together, as text.

    ``check`` (default True) makes a failure of the command one of the test, with the output shown.
    """

    def run(*command: str | Path, check: bool = True, env: dict | None = None, **kwargs) -> subprocess.CompletedProcess:
        # `python` of the command is the one that runs the tests; two workers per test must not take every core.
        path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
        env = {**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1', **(env or {})}
        done = subprocess.run(
            [str(part) for part in command],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=kwargs.pop('timeout', 300),
            **kwargs,
        )
        assert not check or done.returncode == 0, done.stdout
        return done

    return run


@pytest.fixture(scope='session')
def readme_models(repo) -> Callable[[str], list[str]]:
    """Return a function that gives each ``model = …`` below "Use it in your config" in the README of a plugin."""

    def models(plugin: str) -> list[str]:
        text = (repo / f'projects/{plugin}/README.md').read_text(encoding='utf-8')
        text = text.partition('## Use it in your config')[2].partition('\n## ')[0]
        code = ''.join(re.findall(r'```python\n(.*?)```', text, re.DOTALL))
        return re.findall(r'^model = \S.*\n(?:[ )].*\n)*', code, re.MULTILINE)

    return models


@pytest.fixture
def build_over(tmp_path) -> Callable[[str, str, str], nn.Module]:
    """Return a function that lays lines of a config over that of a host, and builds the model with a plugin."""

    def build(base: str, plugin: str, lines: str) -> nn.Module:
        imports = f"custom_imports = dict(imports=['mmplugins.{plugin}'], allow_failed_imports=False)"
        path = tmp_path / 'mine.py'
        path.write_text(f'_base_ = {base!r}\n{imports}\n{lines}')
        cfg = Config.fromfile(path)
        init_default_scope(cfg.default_scope)
        return MODELS.build(cfg.model)

    return build


@pytest.fixture
def small_cfg(repo, tmp_path, monkeypatch) -> Callable[..., Config]:
    """Return a function that gives a config on `tests/data`, cut to a few images, without randomness but the weights'.

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


@pytest.fixture
def train_and_resume(small_cfg, tmp_path) -> Callable[[str], dict[str, torch.Tensor]]:
    """Return a function that trains a `small_cfg` at once, and stopped and resumed: to equal weights, its result."""

    def weights(folder: str) -> dict[str, torch.Tensor]:
        return torch.load(tmp_path / folder / 'epoch_2.pth', weights_only=False)['state_dict']

    def train(name: str) -> dict[str, torch.Tensor]:
        runner = Runner.from_cfg(small_cfg(name))
        runner.train()
        losses = runner.message_hub.get_scalar('train/loss').data[0]
        assert all(loss > 0 for loss in losses)
        cfg = small_cfg(name, work_dir=str(tmp_path / 'resumed'))
        cfg.update(resume=True, load_from=str(tmp_path / 'work/epoch_1.pth'))
        Runner.from_cfg(cfg).train()
        expected, resumed = weights('work'), weights('resumed')
        assert expected.keys() == resumed.keys()
        for key, value in expected.items():
            torch.testing.assert_close(value, resumed[key], msg=key)
        return expected

    return train


@pytest.fixture
def learn_by_heart(small_cfg) -> Callable[[str], float]:
    """Return a function that trains a classifier on 40 images of two classes and gives its top-1 on them in percent."""

    def learn(name: str) -> float:
        cfg = small_cfg(name, images=40)
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
        return runner.message_hub.get_scalar('val/accuracy/top1').current()

    return learn


@pytest.fixture
def train_by_mim(small_cfg, run, tmp_path) -> Callable[[str, str], None]:
    """Return a function that trains a `small_cfg` by ``mim train <host>`` for an epoch, outside the checkout."""

    def train(host: str, name: str) -> None:
        cfg = small_cfg(name, images=4)
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.dump(tmp_path / 'small.py')
        done = run('mim', 'train', host, 'small.py', '--work-dir', 'w', cwd=tmp_path, timeout=600)
        assert 'Saving checkpoint at 1 epochs' in done.stdout
        assert (tmp_path / 'w/epoch_1.pth').is_file()

    return train
