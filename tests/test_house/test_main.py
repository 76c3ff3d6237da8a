"""``python -m mmplugins``: the list of plugins, the doctor, the samples; and that a wheel is enough to train."""

import importlib
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

import mmplugins
import mmplugins.__main__ as command

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent.name for path in ROOT.glob('projects/*/metafile.yml'))


@pytest.mark.parametrize('plugin', PLUGINS)
def test_the_list_names_the_verbs_of_a_plugin(plugin):
    parser = importlib.import_module(f'mmplugins.{plugin}.__main__').build_parser()
    (verbs,) = (action.choices for action in parser._actions if action.dest == 'verb')
    assert set(command.PLUGINS[plugin][1].split(', ')) == set(verbs), 'PLUGINS of projects/__main__.py'


def test_without_a_verb_the_plugins_are_listed(capsys):
    assert command.main([]) == 0
    output = capsys.readouterr().out
    assert re.findall(r'python -m mmplugins\.(\w+)', output) == PLUGINS


@pytest.fixture(scope='session')
def wheel(tmp_path_factory, run) -> Path:
    """Return a folder with what the wheel unpacks to."""
    folder = tmp_path_factory.mktemp('wheel')
    build = ['build_py', '--build-lib', folder, 'dist_info', '--output-dir', folder]
    run(sys.executable, ROOT / 'setup.py', '-q', 'egg_info', '--egg-base', folder, *build, cwd=ROOT)
    next(folder.glob('mmplugins-*.dist-info')).joinpath('INSTALLER').touch()  # as pip does
    return folder


@pytest.fixture
def sick(bare, wheel):
    """Return an environment with the wheel and with hosts that are only pretended, in which nothing is wrong."""
    import packaging

    for path in [*wheel.glob('mmplugins*'), Path(packaging.__file__).parent]:
        (bare.site / path.name).symlink_to(path)
    bare.add_torch()
    for name, version in dict(
        setuptools='81.0', numpy='2.2', scipy='1.17', matplotlib='3.11', packaging='26.4'
    ).items():
        bare.add(name, version)
    code, output = bare.install()
    assert code == 0, output
    code, output = bare.python('-m', 'mmplugins', 'doctor')
    assert code == 0, output
    return bare


def replace_file(env, path: str, text: str) -> None:
    """Write a file of the environment's packages."""
    (env.site / path).write_text(text)


FAULTS = {
    'driver': (
        lambda env: env.simulate_gpu('535.104.05'),
        'has driver 535.104.05, but torch for CUDA 13.0 needs 580',
        'pip install torch==2.10.0 torchvision==0.25.0',
    ),
    'torch without CUDA': (
        lambda env: (env.simulate_gpu(), replace_file(env, 'torch/__init__.py', 'class version:\n    cuda = None\n')),
        'torch is a build without CUDA',
        'pip uninstall -y torch torchvision',
    ),
    'ops of another torch': (
        lambda env: replace_file(env, 'mmcv/ops/__init__.py', 'raise ImportError("undefined symbol: _ZN3c10")'),
        'the compiled ops of mmcv do not load (ImportError: undefined symbol: _ZN3c10)',
        'bash tools/install.sh compiles them again',
    ),
    'ops for the CPU only': (
        lambda env: env.simulate_gpu(),
        'the ops of mmcv are compiled for the CPU only, and there is a GPU',
        'bash tools/install.sh compiles them again',
    ),
    'rival': (
        lambda env: env.add('mmcv-lite', '2.2.0'),
        'mmcv-lite 2.2.0 is installed; it and onedl-mmcv write the same package',
        'pip uninstall -y mmcv-lite onedl-mmcv',
    ),
    'two spconvs': (
        lambda env: (env.add('spconv', '2.3.8'), env.add('spconv-cu126', '2.3.8')),
        'spconv and spconv-cu126 are installed',
        'pip uninstall -y spconv spconv-cu126',
    ),
    'too new': (
        lambda env: (shutil.rmtree(env.site / 'setuptools-81.0.dist-info'), env.add('setuptools', '84.0')),
        'setuptools 84.0 is installed, mmplugins needs <82',
        "pip install 'setuptools<82'",
    ),
    'missing': (
        lambda env: shutil.rmtree(env.site / 'scipy-1.17.dist-info'),
        'scipy is not installed',
        "pip install 'scipy'",
    ),
    'alias': (
        lambda env: shutil.rmtree(env.site / 'mmdet-3.5.1.dist-info'),
        'mim and mmengine look for mmdet, but onedl-mmdetection is installed without the alias of that name',
        'requirements/aliases/mmdet',
    ),
    'version': (
        lambda env: env.add('transformers', '5.1.0'),
        'transformers 5.1.0 is installed, metr needs <5,>=4.57',
        "pip install 'transformers<5,>=4.57'",
    ),
    'half-written': (
        lambda env: env.add_half('torchvision-extra', '0.1'),
        'torchvision-extra 0.1 is installed only in part',
        'pip install --ignore-installed --no-deps torchvision-extra==0.1',
    ),
    'host that does not import': (
        lambda env: replace_file(env, 'mmdet/__init__.py', 'assert False, "MMCV==2.3.6 is used but incompatible"'),
        'import mmdet: AssertionError: MMCV==2.3.6 is used but incompatible',
        'bash tools/install.sh brings versions that go together',
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_the_doctor_finds(fault, sick):
    plant, wrong, cure = FAULTS[fault]
    plant(sick)
    code, output = sick.python('-m', 'mmplugins', 'doctor')
    assert code == 1
    first = output.split('\n2. ')[0]  # nothing stands before it
    assert wrong in first
    assert cure in first


def test_the_doctor_names_the_gravest_first_and_what_an_issue_needs(sick):
    for fault in ('alias', 'version', 'rival', 'driver', 'ops for the CPU only'):
        FAULTS[fault][0](sick)
    sick.simulate_gpu('535.104.05')
    _, output = sick.python('-m', 'mmplugins', 'doctor')
    order = [
        output.index(FAULTS[fault][1]) for fault in ('driver', 'ops for the CPU only', 'rival', 'version', 'alias')
    ]
    assert order == sorted(order)
    report = output.partition('For an issue report:')[2]
    assert 'GPU: NVIDIA H100 80GB HBM3, driver 535.104.05' in report
    assert 'onedl-mmcv 2.3.6' in report


def test_a_missing_extra_is_no_fault(sick):
    code, output = sick.python('-m', 'mmplugins', 'doctor')
    assert code == 0
    assert 'the extra prae lacks ensemble-boxes' in output
    assert "pip install 'ensemble-boxes<2,>=1.0.9'" in output
    assert 'the extra docs' not in output  # it is of no plugin


def test_no_second_build_of_spconv_is_recommended(sick):
    _, output = sick.python('-m', 'mmplugins', 'doctor')
    assert 'the extra hgkd lacks spconv' in output and 'the extra hgkd-cu126 lacks spconv-cu126' in output
    for build in ('spconv', 'spconv-cu126'):
        sick.add(build, '2.3.8')
        code, output = sick.python('-m', 'mmplugins', 'doctor')
        assert code == 0
        assert "the extra hgkd lacks mlxtend.\n  pip install 'mlxtend<0.24,>=0.23.4'\n" in output
        assert 'hgkd-cu' not in output
        shutil.rmtree(next(sick.site.glob('spconv*.dist-info')))


def test_samples_are_written_where_nothing_is(tmp_path, capsys):
    assert command.main(['samples', str(tmp_path / 'new')]) == 0
    config = re.search(r'mim train mmplugins (\S+)', capsys.readouterr().out)[1]
    root = Path(Config.fromfile(config).train_dataloader.dataset.data_root)
    assert root.resolve().is_relative_to(tmp_path / 'new')
    assert any(root.rglob('*.jpg')) or any(root.rglob('*.png'))

    assert command.main(['samples', str(tmp_path / 'new')]) == 1
    assert 'is not empty' in capsys.readouterr().err


def test_the_wheel_has_the_data_that_its_configs_read_and_no_tools_for_developers(wheel):
    mim = wheel / 'mmplugins/.mim'
    read = {
        found
        for config in (mim / 'configs').rglob('*.py')
        for found in re.findall(r'\.\./(tests/data/\w+)', config.read_text(encoding='utf-8'))
    }
    assert read
    assert not [path for path in read if not (mim / path).is_dir()]
    tools = sorted(path.name for path in (mim / 'tools').iterdir())
    assert tools == ['dist_test.sh', 'dist_train.sh', 'slurm_train.sh', 'test.py', 'train.py']


@pytest.fixture
def installed(bare, wheel):
    """Return an environment with the wheel, and with all packages of this one but mmplugins."""
    shutil.rmtree(bare.site / 'pip')
    for path in wheel.glob('mmplugins*'):
        (bare.site / path.name).symlink_to(path)
    (bare.site / 'shared.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return bare


@pytest.mark.slow
def test_mim_finds_the_models_of_a_wheel_and_what_they_reached(installed, tmp_path):
    script = f'cd {tmp_path} && {installed.folder}/bin/python -m mim search mmplugins --model ds-net'
    code, output = installed.run('bash', '-c', script)
    assert code == 0, output
    configs = {path.stem for path in (ROOT / 'configs/dsnet').glob('*.py')}
    assert set(re.findall(r'config id: (\S+)', output)) == configs
    assert re.search(r'bccd/coco/bbox_map_50 +0\.\d+', output), output


@pytest.mark.slow
def test_a_wheel_is_enough_to_train(installed, wheel, tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    python = f'{installed.folder}/bin/python'
    script = (
        f'cd {empty} && {python} -m mim train mmplugins dsnet-micro_1xb32-40e_clothing10.py --gpus 0 --work-dir w '
        '--cfg-options train_cfg.max_epochs=1 train_dataloader.dataset.indices=32 '
        'val_dataloader.dataset.indices=32 train_dataloader.num_workers=0 val_dataloader.num_workers=0'
    )
    code, output = installed.run('bash', '-c', script, OMP_NUM_THREADS='1')
    assert code == 0, output
    assert (empty / 'w/epoch_1.pth').is_file(), output
    assert str(installed.site / 'mmplugins/.mim') in output or str(wheel) in output


def test_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['version'] == mmplugins.__version__


def test_this_version_has_a_section_of_the_changelog():
    changes = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    assert re.search(rf'^## {re.escape(mmplugins.__version__)}, \d{{4}}-\d\d-\d\d$', changes, re.M)
