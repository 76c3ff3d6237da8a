"""tools/install.sh: what it checks, says and does, in environments with a pip that only pretends.

The fake pip writes metadata and empty packages, and a log of what it was asked for. So the whole script runs in
a second, without network and without the real stack.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAKE_PIP = '''
"""A pip that records its calls and installs empty packages. FAKE_PIP_FAILS: fail when a call contains this."""
import os, re, shutil, sys
from pathlib import Path

args = sys.argv[1:]
site = Path(__file__).parent.parent
with open(site / 'pip.log', 'a') as log:
    print(*args, file=log)
fails = os.environ.get('FAKE_PIP_FAILS')
if fails and fails in ' '.join(args):
    sys.exit('fake pip: no network')
modules = {'onedl-mmengine': 'mmengine', 'onedl-mmcv': 'mmcv/ops', 'onedl-mmdetection': 'mmdet', 'torch': 'torch',
           'onedl-mmpretrain': 'mmpretrain', 'onedl-mmsegmentation': 'mmseg', 'onedl-mmrotate': 'mmrotate',
           'openmim': 'mim', 'mmplugins': 'mmplugins'}

def info_of(name, version):
    return site / f'{name.replace("-", "_")}-{version}.dist-info'

def install(name, version, files=''):
    info = info_of(name, version)
    if '--ignore-installed' in args:
        shutil.rmtree(info, ignore_errors=True)
    if info.is_dir():
        return  # already satisfied
    if name in modules:
        package = site / modules[name]
        package.mkdir(parents=True, exist_ok=True)
        for folder in (package, *package.parents):
            if folder == site:
                break
            (folder / '__init__.py').touch()
    if name == 'onedl-mmcv':
        cuda = '13.0' if os.environ.get('FORCE_CUDA') == '1' else 'not available'
        (package / '__init__.py').write_text(f'def get_compiling_cuda_version(): return {cuda!r}')
    info.mkdir()
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n')
    (info / 'RECORD').write_text(files)
    (info / 'INSTALLER').touch()

if 'uninstall' in args:
    shutil.rmtree(info_of(args[-1], '2.3.6'), ignore_errors=True)
if 'install' in args and '--dry-run' not in args:
    for arg in args:
        if match := re.fullmatch(r'([\\w-]+)==([\\d.]+)', arg):
            install(*match.groups())
        elif '/aliases/' in arg:
            setup = Path(arg, 'setup.py').read_text()
            install(Path(arg).name, re.search("version='(.*)'", setup)[1], 'x/.alias,,\\n')
    if '-e' in args:
        install('mmplugins', '0.1.0')
'''


class Environment:
    """A virtual environment with the fake pip, and install.sh run on it."""

    def __init__(self, folder: Path, script: Path) -> None:
        self.folder = folder
        self.script = script
        python = f'python{sys.version_info.major}.{sys.version_info.minor}'
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
        self.site = folder / 'lib' / python / 'site-packages'
        (self.site / 'pip').mkdir()
        (self.site / 'pip' / '__init__.py').touch()
        (self.site / 'pip' / '__main__.py').write_text(FAKE_PIP)

    def add(self, name: str, version: str) -> None:
        """Pretend that a distribution is installed."""
        info = self.site / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        (info / 'RECORD').touch()
        (info / 'INSTALLER').touch()

    def install(self, *args: str, **env: str) -> tuple[int, str]:
        """Run install.sh on this environment; return its exit status and output."""
        done = subprocess.run(
            ['bash', self.script, '--venv', self.folder, *args],
            env={**os.environ, 'PYTHONPATH': '', 'FORCE_CUDA': '0', **env},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        return done.returncode, done.stdout

    @property
    def pip_calls(self) -> list[str]:
        log = self.site / 'pip.log'
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def environment(tmp_path, repo) -> Environment:
    return Environment(tmp_path / 'venv', repo / 'tools/install.sh')


def test_complete_run_then_nothing_to_do(environment):
    code, output = environment.install('--extras', 'tests')
    assert code == 0, output
    assert 'done: python' in output
    assert 'onedl-mmcv 2.3.6' in output
    calls = len(environment.pip_calls)

    code, output = environment.install('--extras', 'tests')
    assert code == 0, output
    assert 'all is there' in output
    assert len(environment.pip_calls) == calls  # pip alone would take longer than a second


def test_other_extras_are_installed_later(environment):
    environment.install('--extras', 'tests')
    code, output = environment.install('--extras', 'tests,metr')
    assert code == 0, output
    assert environment.pip_calls[-1].endswith('[tests,metr]')


def test_changed_environment_is_looked_at_again(environment):
    environment.install()
    shutil.rmtree(environment.site / 'onedl_mmdetection-3.5.1.dist-info')
    code, output = environment.install()
    assert code == 0, output
    assert 'all is there' not in output
    assert 'onedl-mmdetection 3.5.1' in output


def test_goes_on_where_it_was_cut_off(environment):
    code, output = environment.install(FAKE_PIP_FAILS='onedl-mmdetection')
    assert code != 0
    assert 'fake pip: no network' in output
    assert 'Run the script again to go on' in output
    before = len(environment.pip_calls)

    code, output = environment.install()
    assert code == 0, output
    assert 'torch 2.11.0 is kept' in output
    assert 'mmcv and its ops are kept' in output
    assert not any(' torch==' in call for call in environment.pip_calls[before:])


def test_what_pip_was_cut_off_in_is_installed_again(environment):
    environment.add('scipy', '1.17.1')
    (environment.site / 'scipy-1.17.1.dist-info/INSTALLER').unlink()  # pip writes it last
    code, output = environment.install()
    assert code == 0, output
    assert 'scipy==1.17.1, which was installed only in part' in output
    assert any('--ignore-installed scipy==1.17.1' in call for call in environment.pip_calls)


def test_aliases_are_installed_where_the_real_one_is_absent(environment):
    environment.add('mmdet', '3.3.0')
    code, output = environment.install()
    assert 'import mmdet' in output  # the fake real one has no package: the check at the end says so
    assert code == 1
    calls = '\n'.join(environment.pip_calls)
    assert 'aliases/mmrotate' in calls
    assert 'onedl-mmrotate' in calls
    assert 'aliases/mmdet' not in calls
    assert 'onedl-mmdetection' not in calls


def test_wrong_python(tmp_path, repo, run):
    python = tmp_path / 'python3.9'
    python.write_text('#!/bin/sh\necho 3.9\n')
    python.chmod(0o755)
    done = run('bash', repo / 'tools/install.sh', '--python', python, '--venv', tmp_path / 'venv', check=False)
    assert done.returncode == 1
    assert 'is Python 3.9; 3.10, 3.11 or 3.12 is needed' in done.stdout
    assert not (tmp_path / 'venv').exists()


def test_no_python(tmp_path, repo, run):
    env = {'PATH': str(tmp_path)}
    for name in ('dirname', 'bash'):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = run(tmp_path / 'bash', repo / 'tools/install.sh', check=False, env=env)
    assert done.returncode == 1
    assert 'no Python 3.10, 3.11 or 3.12 on PATH' in done.stdout


@pytest.mark.skipif(Path(sys.base_prefix, 'conda-meta').is_dir(), reason='the base Python is a conda environment')
def test_system_python_is_refused(repo, run):
    python = Path(sys.base_prefix, 'bin', f'python{sys.version_info.major}.{sys.version_info.minor}')
    done = run('bash', repo / 'tools/install.sh', '--python', python, check=False)
    assert done.returncode == 1
    assert 'is not in a virtual or conda environment' in done.stdout


@pytest.mark.parametrize(
    ('installed', 'message'),
    [
        ({'mmcv': '2.2.0'}, 'mmcv 2.2.0 is installed; it and onedl-mmcv write the same package'),
        ({'onedl-mim': '0.5.1'}, 'it and openmim write the same package'),
        ({'spconv': '2.3.8', 'spconv-cu120': '2.3.6'}, 'spconv and spconv-cu120 are installed'),
    ],
    ids=['upstream mmcv', 'other mim', 'two spconvs'],
)
def test_rivals_are_refused_before_anything_is_installed(environment, installed, message):
    for name, version in installed.items():
        environment.add(name, version)
    code, output = environment.install()
    assert code == 1
    assert message in output
    assert 'uninstall' in output
    assert not any('install' in call for call in environment.pip_calls)


@pytest.mark.parametrize(
    ('torch', 'compiler', 'message'),
    [
        ('2.14.0', 'true', 'mmcv cannot be built against torch 2.14.0'),
        ('3.0.1', 'true', 'mmcv cannot be built against torch 3.0.1'),
        ('2.13.0', 'absent-compiler', 'no C++ compiler (absent-compiler)'),
        (None, 'absent-compiler', 'no C++ compiler (absent-compiler)'),
    ],
)
def test_what_cannot_be_compiled_is_told_before_the_large_downloads(environment, torch, compiler, message):
    if torch:
        environment.add('torch', torch)
    code, output = environment.install(CXX=compiler, FAKE_PIP_FAILS='--only-binary')  # no ready wheel
    assert code == 1
    assert message in output
    assert not any(' torch==' in call for call in environment.pip_calls)


def test_mmcv_is_compiled_with_torch_there_and_without_cache(environment):
    code, output = environment.install(CXX='true', FAKE_PIP_FAILS='--only-binary')
    if 'no Python.h' in output:
        pytest.skip('this Python has no headers')
    assert code == 0, output
    calls = environment.pip_calls
    (build,) = (number for number, call in enumerate(calls) if '--no-binary onedl-mmcv' in call)  # once
    assert '--no-build-isolation --no-cache-dir' in calls[build]
    assert any(' torch==2.11.0' in call for call in calls[:build])


def test_cuda_torch_is_kept_and_gets_ops_for_the_gpu(environment, tmp_path):
    environment.add('torch', '2.10.0+cu129')
    environment.add('torchvision', '0.25.0+cu129')
    (environment.site / 'torch').mkdir()
    (environment.site / 'torch/__init__.py').write_text('class cuda:\n    is_available = staticmethod(lambda: True)\n')
    nvcc = tmp_path / 'bin/nvcc'
    nvcc.parent.mkdir()
    nvcc.touch(mode=0o755)

    # The ready wheel of the fake pip has no CUDA ops, so mmcv is compiled for the GPU.
    code, output = environment.install(CXX='true', PATH=f'{nvcc.parent}:{os.environ["PATH"]}')
    if 'no Python.h' in output:
        pytest.skip('this Python has no headers')
    assert code == 0, output
    assert 'torch 2.10.0+cu129 is kept' in output
    assert 'compiling its ops (CUDA: 1)' in output
    assert not any(' torch==' in call for call in environment.pip_calls)


def test_unknown_argument_shows_the_usage(repo, run):
    done = run('bash', repo / 'tools/install.sh', '--prefix', 'x', check=False)
    assert done.returncode == 2
    assert 'usage:' in done.stdout
