"""Environments for the tests of tools/install.sh and of ``python -m mmplugins doctor``."""

import os
import subprocess
import sys
from pathlib import Path

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
    """A virtual environment with the fake pip, and install.sh run on it.

    Attributes:
        site: Its ``site-packages``.
        env: Variables of what is run in it. There is no CUDA compiler, and no GPU but a simulated one.
    """

    def __init__(self, folder: Path, script: Path) -> None:
        self.folder = folder
        self.script = script
        python = f'python{sys.version_info.major}.{sys.version_info.minor}'
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
        self.site = folder / 'lib' / python / 'site-packages'
        self.programs = folder / 'programs'
        self.programs.mkdir()
        nothing = folder / 'no-cuda'
        nothing.mkdir()
        path = f'{self.programs}{os.pathsep}{os.environ["PATH"]}'
        self.env = {**os.environ, 'PYTHONPATH': '', 'PATH': path, 'CUDA_HOME': str(nothing)}
        self.env.pop('FORCE_CUDA', None)
        self.program('nvidia-smi', 'exit 9')
        (self.site / 'pip').mkdir()
        (self.site / 'pip' / '__init__.py').touch()
        (self.site / 'pip' / '__main__.py').write_text(FAKE_PIP)

    def program(self, name: str, script: str) -> Path:
        """Put a shell script on PATH, before all others."""
        path = self.programs / name
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(0o755)
        return path

    def simulate_gpu(self, driver: str = '580.65.06') -> None:
        """Let the driver say that there is a GPU."""
        self.program('nvidia-smi', f'echo "NVIDIA H100 80GB HBM3, {driver}"')

    def simulate_nvcc(self, release: str) -> None:
        """Put a CUDA compiler that says its version, and can do no more, where torch looks for it."""
        nvcc = self.program('nvcc', f'echo "Cuda compilation tools, release {release}, V{release}.88"')
        home = self.folder / 'cuda'
        (home / 'bin').mkdir(parents=True)
        nvcc.rename(home / 'bin/nvcc')
        self.env['CUDA_HOME'] = str(home)

    def add_torch(self, version: str = '2.11.0', cuda: str | None = '13.0') -> None:
        """Pretend that torch and torchvision are installed."""
        self.add('torch', version)
        self.add('torchvision', '0.26.0')
        (self.site / 'torch').mkdir()
        (self.site / 'torch/__init__.py').write_text(f'class version:\n    cuda = {cuda!r}\n')

    def add(self, name: str, version: str) -> Path:
        """Pretend that a distribution is installed; return its folder of metadata."""
        info = self.site / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        (info / 'RECORD').touch()
        (info / 'INSTALLER').touch()
        return info

    def add_half(self, name: str, version: str) -> None:
        """Pretend that pip was cut off in installing a distribution: it writes ``INSTALLER`` last."""
        (self.add(name, version) / 'INSTALLER').unlink()

    def run(self, *command: str | Path, **env: str) -> tuple[int, str]:
        """Run a command in this environment; return its exit status and output."""
        done = subprocess.run(
            command,
            cwd=self.folder,  # not the checkout, whose egg-info Python would take for what is installed
            env={**self.env, **env},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        return done.returncode, done.stdout

    def install(self, *args: str, **env: str) -> tuple[int, str]:
        """Run install.sh on this environment; return its exit status and output."""
        return self.run('bash', self.script, '--venv', self.folder, *args, **env)

    def python(self, *args: str, **env: str) -> tuple[int, str]:
        """Run this environment's Python; return its exit status and output."""
        return self.run(self.folder / 'bin/python', *args, **env)

    @property
    def pip_calls(self) -> list[str]:
        log = self.site / 'pip.log'
        return log.read_text().splitlines() if log.exists() else []
