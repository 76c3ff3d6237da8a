"""tools/install.sh: what cannot work is said in an early sentence, with the cure, before anything large is fetched."""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

NO_WHEEL = dict(FAKE_PIP_FAILS='--only-binary')  # so mmcv must be compiled


class Failure(NamedTuple):
    """What is there, as methods of the environment with their arguments, and what is to be said about it."""

    there: list[tuple]
    wrong: str
    cure: str
    env: dict = {}
    args: tuple = ()


FAILURES = {
    'driver too old for the torch that would come': Failure(
        [('simulate_gpu', '535.104.05')],
        'driver 535.104.05, but torch for CUDA 13.0 needs 580',
        'pip install torch==2.10.0 torchvision==0.25.0',
    ),
    'driver too old for the torch that is there': Failure(
        [('simulate_gpu', '535.104.05'), ('add_torch', '2.12.0')],
        'driver 535.104.05, but torch for CUDA 13.0 needs 580',
        'pip install torch==2.10.0 torchvision==0.25.0',
    ),
    'driver too old for any torch': Failure(
        [('simulate_gpu', '470.57')],
        'driver 470.57, but torch for CUDA 13.0 needs 580',
        'Update the driver',
    ),
    'torch without CUDA beside a GPU': Failure(
        [('simulate_gpu',), ('add_torch', '2.11.0+cpu', None)],
        'torch is a build without CUDA',
        'pip uninstall -y torch torchvision',
    ),
    'GPU without nvcc': Failure(
        [('simulate_gpu',)],
        'no CUDA compiler (nvcc)',
        'Install the CUDA toolkit 13 and set CUDA_HOME',
        NO_WHEEL,
    ),
    'nvcc of another CUDA': Failure(
        [('simulate_gpu',), ('simulate_nvcc', '12.4')],
        'is of CUDA 12.4, but torch is built for CUDA 13.0',
        'Set CUDA_HOME to CUDA 13',
        NO_WHEEL,
    ),
    'ops for the GPU on a machine without one': Failure(
        [('simulate_nvcc', '13.0')],
        'nothing says for which GPU the ops are to be built',
        'Set TORCH_CUDA_ARCH_LIST: 8.0 for A100',
        dict(NO_WHEEL, FORCE_CUDA='1'),
    ),
    'ops for the GPU and a torch without CUDA': Failure(
        [('simulate_nvcc', '13.0'), ('add_torch', '2.11.0+cpu', None)],
        'FORCE_CUDA=1, but the installed torch is a build without CUDA',
        'pip uninstall -y torch torchvision',
        dict(NO_WHEEL, FORCE_CUDA='1'),
    ),
    'torch too new': Failure(
        [('add_torch', '2.14.0')],
        'mmcv cannot be built against torch 2.14.0',
        'pip install torch==2.11.0 torchvision==0.26.0',
        NO_WHEEL,
    ),
    'a torch that is far off': Failure(
        [('add_torch', '3.0.1')],
        'mmcv cannot be built against torch 3.0.1',
        'pip install torch==2.11.0 torchvision==0.26.0',
        NO_WHEEL,
    ),
    'no C++ compiler': Failure(
        [],
        'no C++ compiler (absent-compiler)',
        'apt-get install g++',
        dict(NO_WHEEL, CXX='absent-compiler'),
    ),
    'unknown extra': Failure(
        [],
        'unknown extra: mtr',
        'there are: mminstall, tests, dev, docs, metr',
        args=('--extras', 'tests,mtr'),
    ),
    'upstream mmcv': Failure(
        [('add', 'mmcv', '2.2.0')],
        'mmcv 2.2.0 is installed; it and onedl-mmcv write the same package',
        'pip uninstall -y mmcv onedl-mmcv',
    ),
    'other mim': Failure(
        [('add', 'onedl-mim', '0.5.1')],
        'it and openmim write the same package',
        'pip uninstall -y onedl-mim openmim',
    ),
    'two spconvs': Failure(
        [('add', 'spconv', '2.3.8'), ('add', 'spconv-cu120', '2.3.6')],
        'spconv and spconv-cu120 are installed',
        'pip uninstall -y spconv spconv-cu120',
    ),
    'the CPU build of spconv over that for CUDA': Failure(
        [('add', 'spconv-cu126', '2.3.8')],
        'the extra hgkd would write the CPU build of spconv over it',
        'Leave hgkd out of --extras',
        args=('--extras', 'hgkd'),
    ),
    'cut off in what no index has': Failure(
        [('add_half', 'scipy', '1.0')],
        'scipy==1.0 is installed only in part and pip does not find it again',
        'install it as you did before',
        dict(FAKE_PIP_FAILS='scipy==1.0'),
    ),
}


@pytest.mark.parametrize('name', FAILURES)
def test_what_cannot_work_is_said_early(bare, name):
    failure = FAILURES[name]
    for method, *arguments in failure.there:
        getattr(bare, method)(*arguments)
    code, output = bare.install(*failure.args, **failure.env)
    assert code == 1, output
    assert failure.wrong in output
    assert failure.cure in output
    assert 'Traceback' not in output
    assert not any(' torch==' in call for call in bare.pip_calls)


def test_on_a_gpu_the_ops_can_be_built_for_the_cpu_on_purpose(bare):
    bare.simulate_gpu('535.104.05')
    code, output = bare.install(FORCE_CUDA='0')
    assert code == 0, output


def test_system_and_venv_exclude_each_other(bare):
    code, output = bare.install('--system')
    assert code == 1
    assert '--system and --venv exclude each other' in output


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
    assert 'in a container --system' in done.stdout
