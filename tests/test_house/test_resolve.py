"""What pip takes for mmplugins on each Python, asked of the index: versions that work together."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ALL = {'metr', 'prae', 'hgkd', 'spsa', 'dsnet', 'maml', 'pti', 'app', 'lora', 'hgkd-teacher'}


def resolve(folder: Path, python: str, *requirements: str) -> dict[str, str]:
    """Return name -> version of what pip would install on a Python that need not be here, from wheels.

    Raises:
        subprocess.CalledProcessError: The requirements contradict each other, or there is no index.
    """
    report = folder / 'report.json'
    command = ['install', '--dry-run', '--quiet', '--ignore-installed', '--report', report, '--target', folder / 'none']
    target = ['--python-version', python, '--only-binary', ':all:', '--disable-pip-version-check']
    env = {**os.environ, 'PIP_RETRIES': '0', 'PIP_DEFAULT_TIMEOUT': '20'}
    subprocess.run([sys.executable, '-m', 'pip', *command, *target, *requirements], check=True, env=env, timeout=300)
    found = json.loads(report.read_text())['install']
    return {item['metadata']['name'].lower(): item['metadata']['version'] for item in found}


@pytest.fixture(scope='module')
def index(tmp_path_factory) -> None:
    """Skip without an index."""
    try:
        resolve(tmp_path_factory.mktemp('index'), '3.11', '--no-deps', 'packaging')
    except subprocess.SubprocessError:
        pytest.skip('no package index can be reached')


@pytest.mark.parametrize(
    ('python', 'extras'),
    [('3.10', ALL), ('3.12', ALL), ('3.12', {'metr'})],
    ids=['3.10, all extras', '3.12, all extras', '3.12, metr'],
)
def test_pip_resolves_to_what_works(python, extras, index, tmp_path, run):
    run(sys.executable, 'setup.py', '-q', 'egg_info', '--egg-base', tmp_path, cwd=ROOT)
    lines = metadata.Distribution.at(next(tmp_path.glob('*.egg-info'))).requires
    wanted = [Requirement(line) for line in lines]
    chosen = [one for one in wanted if not one.marker or any(one.marker.evaluate({'extra': extra}) for extra in extras)]
    found = resolve(tmp_path, python, *(f'{one.name}{one.specifier}' for one in chosen))
    assert Version(found['torch']) < Version('2.14')
    assert Version(found['setuptools']) < Version('82')
    assert Version(found['transformers']) < Version('5')
    assert found['torch'].split('.')[1] == str(int(found['torchvision'].split('.')[1]) - 15)
