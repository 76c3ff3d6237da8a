"""Fixtures of the house tests: configs, shortened, beside stand-ins for their data and weights."""

import ctypes
import functools
import gc
import importlib.util
import multiprocessing.dummy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
STANDINS = ROOT / 'tests/standins'


def load_file(name: str, path: Path) -> ModuleType:
    """Import a file under a name of its own, once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def load_table() -> ModuleType:
    """Import the table without the package, whose modules need the hosts."""
    return load_file('standins_overrides', STANDINS / 'overrides.py')


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with an argument ``rehearsed`` on every config of the plugins that its module names."""
    if 'rehearsed' not in metafunc.fixturenames:
        return
    table = load_table()
    parameters = []
    for plugin in metafunc.module.PLUGINS:
        for config in sorted(ROOT.glob(f'configs/{plugin}/*.py')):
            name = f'{plugin}/{config.stem}'
            marks = [pytest.mark.rehearsal] if name in table.QUICK else [pytest.mark.rehearsal, pytest.mark.slow]
            if name in table.SKIPPED:
                marks.append(pytest.mark.skip(reason=table.SKIPPED[name]))
            if name in table.FAILING:
                marks.append(pytest.mark.xfail(strict=True, reason=table.FAILING[name]))
            parameters.append(pytest.param(config, marks=marks, id=config.stem))
    metafunc.parametrize('rehearsed', parameters)


@pytest.fixture(scope='session')
def installs() -> ModuleType:
    """Return the module of environments to install into."""
    return load_file('installs', Path(__file__).with_name('installs.py'))


@pytest.fixture
def bare(installs, tmp_path, repo):
    """Return an environment in which nothing is installed, with a pip that only pretends."""
    return installs.Environment(tmp_path / 'venv', repo / 'tools/install.sh')


@pytest.fixture(scope='session')
def data(standins, tmp_path_factory) -> Path:
    """Return a folder ``data`` with every family of stand-ins."""
    folder = tmp_path_factory.mktemp('world') / 'data'
    standins.write_all(folder)
    return folder


@pytest.fixture(scope='session')
def prepared(data) -> None:
    """Make of the published annotations what METR's joint config reads, as its first lines say."""
    from mmplugins.metr.__main__ import main

    for part, folder in dict(objects365='objects365v2', openimages='openimages').items():
        assert main(['prepare', part, str(data / folder)]) == 0


@pytest.fixture(scope='session')
def environment() -> Callable[[], dict]:
    """Return mmengine's function that asks compilers and drivers for their versions, asking once."""
    from mmengine.utils.dl_utils import collect_env

    return functools.cache(collect_env)


def give_back_memory() -> None:
    """Free runners, which are rings of references, and return freed memory to the system.

    glibc keeps blocks below 32 MB, as most weights are: 6 GB after twelve configs of ViTs, with not one tensor alive.
    """
    gc.collect()
    if sys.platform == 'linux':
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def shortened(standins, data, environment, monkeypatch) -> Callable[..., Config]:
    """Return a function that shortens a config and goes to a folder where its data and weights lie as it expects them.

    ``workers`` is their number for each loader.
    """
    import mmengine.runner.runner
    import torch
    from mmengine.optim.optimizer import amp_optimizer_wrapper
    from mmrotate.evaluation.functional import mean_ap
    from yapf.yapflib import yapf_api

    rehearsal, weights = (importlib.import_module(f'standins.{name}') for name in ('rehearsal', 'weights'))
    table, world = load_table(), data.parent
    monkeypatch.chdir(world)
    monkeypatch.setenv('TORCH_HOME', str(world / 'torch'))
    # Half of the time of a short run goes to the layout of its config's text, and to questions about the machine.
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, **kwargs: (text, True))
    monkeypatch.setattr(mmengine.runner.runner, 'collect_env', environment)
    # The host's metric starts processes that import all hosts anew; threads do for a few boxes.
    monkeypatch.setattr(mean_ap, 'get_context', lambda method: multiprocessing.dummy)
    # The workers of a loader in a ring of references never hear that they may end, and torch waits 5 s for each.
    monkeypatch.setattr(torch.utils.data._utils, 'MP_STATUS_CHECK_INTERVAL', 0.1)
    # mmengine refuses mixed precision without a GPU; its autocast works there, in bfloat16.
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', functools.partial(torch.amp.GradScaler, device='cpu'))

    def read(config: Path, workers: int = 0) -> Config:
        name = f'{config.parent.name}/{config.stem}'
        rows = table.rows_of(name)
        options = {key: value for row in rows for key, value in row.options.items()}
        cfg = rehearsal.load(config, world / 'runs' / config.stem, options)
        rehearsal.shorten(cfg, max((row.shrink for row in rows), default=1), workers)
        return cfg

    def shortened(config: Path, workers: int = 0) -> Config:
        cfg = read(config, workers)
        weights.Weights(ROOT, read).provide(cfg)
        return cfg

    return shortened


@pytest.fixture
def rehearse(standins, shortened) -> Callable[[Path], None]:
    """Return a function that rehearses a config."""
    rehearsal, table = importlib.import_module('standins.rehearsal'), load_table()

    def rehearse(config: Path) -> None:
        gc.freeze()  # a data set of mmengine's collects garbage when it is made: among all modules of all hosts
        cfg = shortened(config, workers=2 if f'{config.parent.name}/{config.stem}' in table.QUICK else 0)
        try:
            rehearsal.run(cfg)
        finally:
            shutil.rmtree(cfg.work_dir, ignore_errors=True)
            rehearsal.forget()
            give_back_memory()

    return rehearse
