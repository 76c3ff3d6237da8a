"""tools/install.sh: what it checks, says and does, in environments with a pip that only pretends.

The fake pip writes metadata and empty packages, and a log of what it was asked for. So the whole script runs in
a second, without network and without the real stack.
"""

import re
import shutil

import pytest


def test_complete_run_then_nothing_to_do(bare):
    code, output = bare.install('--extras', 'tests')
    assert code == 0, output
    assert 'done: python' in output
    assert 'onedl-mmcv 2.3.6' in output
    calls = len(bare.pip_calls)

    code, output = bare.install('--extras', 'tests')
    assert code == 0, output
    assert 'all is there' in output
    assert len(bare.pip_calls) == calls  # pip alone would take longer than a second


def test_another_environment_is_made_though_the_active_one_is_complete(bare, tmp_path):
    bare.install()
    path = f'{bare.folder / "bin"}:{bare.env["PATH"]}'
    offline = dict(PIP_NO_INDEX='1', PATH=path)  # the new one has a pip that does not pretend
    code, output = bare.run('bash', bare.script, '--venv', tmp_path / 'other', **offline)
    assert (tmp_path / 'other/bin/python').exists() and 'all is there' not in output


def test_what_pip_was_about_to_remove_is_no_distribution(bare):
    (bare.site / '~cipy-1.17.1.dist-info').mkdir()
    code, output = bare.install()
    assert code == 0 and 'only in part' not in output, output


def test_other_extras_are_installed_later(bare):
    bare.install('--extras', 'tests')
    code, output = bare.install('--extras', 'tests,metr')
    assert code == 0, output
    assert bare.pip_calls[-1].endswith('[metr,tests]')


def test_changed_bare_is_looked_at_again(bare):
    bare.install()
    shutil.rmtree(bare.site / 'onedl_mmdetection-3.5.1.dist-info')
    code, output = bare.install()
    assert code == 0, output
    assert 'all is there' not in output
    assert 'onedl-mmdetection 3.5.1' in output


def test_goes_on_where_it_was_cut_off(bare):
    code, output = bare.install(FAKE_PIP_FAILS='onedl-mmdetection')
    assert code != 0
    assert 'fake pip: no network' in output
    assert 'Run the script again to go on' in output
    before = len(bare.pip_calls)

    code, output = bare.install()
    assert code == 0, output
    assert 'torch 2.11.0 is kept' in output
    assert 'mmcv and its ops are kept' in output
    assert not any(' torch==' in call for call in bare.pip_calls[before:])


def test_what_pip_was_cut_off_in_is_installed_again(bare):
    bare.add_half('scipy', '1.17.1')
    code, output = bare.install()
    assert code == 0, output
    assert 'scipy==1.17.1, which was installed only in part' in output
    assert any('--ignore-installed scipy==1.17.1' in call for call in bare.pip_calls)


def test_aliases_are_installed_where_the_real_one_is_absent(bare):
    bare.add('mmdet', '3.3.0')
    code, output = bare.install()
    assert 'import mmdet' in output  # the fake real one has no package: the check at the end says so
    assert code == 1
    calls = '\n'.join(bare.pip_calls)
    assert 'aliases/mmrotate' in calls
    assert 'onedl-mmrotate' in calls
    assert 'aliases/mmdet' not in calls
    assert 'onedl-mmdetection' not in calls


def test_mmcv_is_compiled_with_torch_there_and_without_cache(bare):
    code, output = bare.install(CXX='true', FAKE_PIP_FAILS='--only-binary')
    if 'no Python.h' in output:
        pytest.skip('this Python has no headers')
    assert code == 0, output
    calls = bare.pip_calls
    (build,) = (number for number, call in enumerate(calls) if '--no-binary onedl-mmcv' in call)  # once
    assert '--no-build-isolation --no-cache-dir' in calls[build]
    assert any(' torch==2.11.0' in call for call in calls[:build])


def test_another_order_of_the_extras_or_fewer_are_nothing_to_do(bare):
    bare.install('--extras', 'tests,metr')
    for extras in ('metr,tests', 'tests'):
        assert 'all is there' in bare.install('--extras', extras)[1]


def test_a_distribution_without_metadata_is_installed_again(bare):
    info = bare.add('scipy', '1.17.1')
    for file in info.iterdir():
        file.unlink()
    code, output = bare.install()
    assert code == 0, output
    assert any('--ignore-installed scipy==1.17.1' in call for call in bare.pip_calls)


def test_a_torch_for_cuda_comes_again_from_the_index_that_has_it(bare):
    bare.add_torch('2.10.0+cu129', '12.9')
    (bare.site / 'torch-2.10.0+cu129.dist-info/INSTALLER').unlink()
    code, output = bare.install()
    assert code == 0, output
    index = 'https://download.pytorch.org/whl/cu129'
    assert any(f'--ignore-installed torch==2.10.0+cu129 --index-url {index}' in call for call in bare.pip_calls)


def test_bash_of_macos_can_read_it(repo):
    script = (repo / 'tools/install.sh').read_text() + (repo / 'tools/install_cxx.sh').read_text()
    since_bash_4 = r'mapfile|readarray|declare -A|local -n|\$\{\w+(,,|\^\^)|&>>|\|&|coproc'
    assert not re.findall(since_bash_4, script)


def test_unknown_argument_shows_the_usage(repo, run):
    done = run('bash', repo / 'tools/install.sh', '--prefix', 'x', check=False)
    assert done.returncode == 2
    assert 'usage:' in done.stdout
