"""``tools/gpu_check.sh`` and ``tools/gpu_wheels.sh`` without a GPU, a network or pip: what they would run, and keep."""

import importlib.util
import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

SCRIPT, REPORT = 'tools/gpu_check.sh', 'tools/gpu_report.py'
# In the place of Python: it writes what was asked, and does what a benchmark or pytest would leave behind.
PYTHON = """#!/bin/bash
echo "$@" >>"$LOG"
case "$*" in
    *gpu_report.py*) exec "$REAL" "$@" ;;
    *'pytest '*) exit 1 ;;
    *'benchmark.py good '*) echo '{"bounds": [{"verdict": "holds"}], "table": "| the table |"}' >"${@: -1}" ;;
    *'benchmark.py slow '*) sleep 30 ;;
esac
"""
XML = """<testsuites><testsuite>
<testcase classname="tests.test_cae.test_gpu" name="test_a[cuda]"/>
<testcase classname="tests.test_cae.test_gpu" name="test_b[cuda]">
<failure message="0.5 &gt; 0.01&#10;more">long</failure></testcase>
<testcase classname="tests.test_cae.test_gpu" name="test_c[cuda]"><skipped message="needs CUDA"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def report(repo):
    """Return the module of the report."""
    spec = importlib.util.spec_from_file_location('gpu_report', repo / REPORT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(repo, tmp_path):
    """Return a checkout of the scripts alone, with two benchmarks, one of which takes too long."""
    root = tmp_path / 'checkout'
    for name in ('frame', 'good', 'slow'):
        (root / 'tools/experiments' / name).mkdir(parents=True)
        (root / 'tools/experiments' / name / 'benchmark.py').touch()
    for name in (SCRIPT, REPORT):
        shutil.copy(repo / name, root / name)
    script = root / SCRIPT
    script.write_text(script.read_text().replace('[benchmark]=60', '[benchmark]=1'))
    return root


@pytest.fixture
def python(tmp_path):
    """Return a program in the place of Python."""
    path = tmp_path / 'python'
    path.write_text(PYTHON)
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


@pytest.fixture
def check(run, checkout, python, tmp_path):
    """Return a function that runs the script and gives its exit status, what it said and what it ran."""

    def check(*options: str) -> tuple[int, str, list[str]]:
        log = tmp_path / 'log'
        log.write_text('')
        env = dict(LOG=str(log), REAL=shutil.which('python3'))
        given = ('--python', python, '--dir', tmp_path / 'work', '--out', tmp_path / 'gpu.json')
        done = run('bash', checkout / SCRIPT, *given, *options, check=False, env=env)
        return done.returncode, done.stdout, log.read_text().splitlines()

    return check


def test_dry_run_names_every_stage_and_does_nothing(run, repo, tmp_path):
    (tmp_path / 'addict-2.4.0-py3-none-any.whl').touch()
    (tmp_path / 'onedl_mmcv-2.3.6-cp312-cp312-linux_x86_64.whl').touch()
    options = ('--dry-run', '--wheels', tmp_path, '--dir', tmp_path / 'work', '--out', tmp_path / 'gpu.json')
    said = run('bash', repo / SCRIPT, *options).stdout
    plugins = sorted(path.parent.name for path in repo.glob('tools/experiments/*/benchmark.py'))
    plugins.remove('frame')
    stages = re.findall(r'^gpu_check: (\w+), at most (\d+) s$', said, re.MULTILINE)
    assert [name for name, _ in stages] == ['setup', 'mmcv', 'tests', *plugins]
    assert all(0 < int(limit) <= 480 for _, limit in stages)
    commands = [line.strip() for line in said.splitlines() if line.startswith('  ')]
    setup = next(line for line in commands if 'addict' in line)
    assert 'install --no-index --no-deps' in setup and 'onedl_mmcv' not in setup
    mmcv = [line for line in commands if line.endswith('onedl-mmcv')]
    assert ['--only-binary' in mmcv[0], '--no-binary' in mmcv[1]] == [True, True]
    tests = next(line for line in commands if '-m pytest' in line)
    assert ' -m gpu ' in tests and all(f'test_{name}/test_gpu.py' in tests for name in plugins)
    assert [line for line in commands if 'benchmark.py metr --device cuda' in line]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in tmp_path.glob('*.whl'))


@pytest.mark.slow  # a stage runs into its limit, twice
def test_a_failure_stops_nothing_else_and_what_is_done_is_kept(check, tmp_path):
    stages = ('--stages', 'mmcv,tests,slow,good')
    status, said, ran = check(*stages)
    record = json.loads((tmp_path / 'gpu.json').read_text())
    results = {name: stage['result'] for name, stage in record['stages'].items()}
    assert status == 1 and results == dict(mmcv='done', tests='failed', slow='timeout', good='done')
    assert '1 of 1 bounds hold' in said and '| the table |' in said
    assert len([line for line in ran if 'benchmark.py' in line]) == 2
    status, said, ran = check(*stages)
    assert status == 1 and 'good: kept' in said and 'mmcv: kept' in said
    assert [line.split()[1] for line in ran if 'benchmark.py' in line] == ['slow']


def test_what_an_earlier_setup_installed_is_done_anew_with_a_new_setup(check, tmp_path):
    """Setup empties the folder that mmcv is installed into."""
    check('--stages', 'good')
    assert 'good: kept' in check('--stages', 'good')[1]
    assert 'good: kept' not in check('--stages', 'setup,good')[1]


def test_all_done(check):
    assert check('--stages', 'good')[0] == 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--stages', 'metrr'), 'there is no stage metrr; there are: setup mmcv tests good slow'),
        (('--wheels', 'nowhere'), '--wheels nowhere is no folder; tools/gpu_wheels.sh fills one'),
    ],
)
def test_bad_options(check, options, message):
    status, said, ran = check(*options)
    assert status and message in said and not ran


def test_a_machine_without_a_gpu_is_told_so(report, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit, match='sees no GPU'):
        report.machine()


def test_tests_are_counted(report, tmp_path):
    (tmp_path / 'tests.xml').write_text(XML)
    assert report.read_tests(tmp_path / 'tests.xml') == dict(
        passed=1, skipped=1, failed=1, failures={'tests.test_cae.test_gpu::test_b[cuda]': '0.5 > 0.01'}
    )


def test_a_stage_that_was_not_reached_is_left(report, tmp_path, capsys):
    (tmp_path / 'tests.xml').write_text(XML)
    (tmp_path / 'tests.status').write_text('failed 7 180\n')
    assert report.summary(tmp_path, tmp_path / 'out/gpu.json', ['tests', 'metr']) == 1
    said = capsys.readouterr().out
    assert '| tests | failed | 7 | 1 passed, 1 failed, 1 skipped |' in said and '| metr | left |' in said
    assert 'test_b[cuda]: 0.5 > 0.01' in said


# pip, which notes what it was asked and makes the files that it would: what was there, ours, and one more.
PIP = """
import os, shutil, sys
from pathlib import Path

words = sys.argv[1:]
with open(os.environ['LOG'], 'a') as log:
    print(*words, file=log)
if '--wheel-dir' in words:
    out = Path(words[words.index('--wheel-dir') + 1])
    out.mkdir()
    for stub in Path(words[words.index('--find-links') + 1]).glob('*.whl'):
        shutil.copy(stub, out)
    (out / 'mmplugins-0.1.0-py3-none-any.whl').touch()
    (out / 'addict-2.4.0-py3-none-any.whl').touch()
elif 'download' in words:
    if '--only-binary' in words:
        sys.exit(1)
    (Path(words[words.index('--dest') + 1]) / 'onedl_mmcv-2.3.6.tar.gz').touch()
"""


def test_wheels(run, repo, tmp_path):
    (tmp_path / 'pip').mkdir()
    (tmp_path / 'pip/__init__.py').touch()
    (tmp_path / 'pip/__main__.py').write_text(PIP)
    folder, log = tmp_path / 'wheels', tmp_path / 'log'
    folder.mkdir()
    (folder / 'addict-2.3.0-py3-none-any.whl').touch()
    env = dict(PYTHONPATH=f'{tmp_path}{os.pathsep}{os.environ.get("PYTHONPATH", "")}', LOG=str(log))
    said = run('bash', repo / 'tools/gpu_wheels.sh', folder, '--python', 'python', env=env).stdout
    # No older version, no stubs of what the target has, not the checkout.
    assert sorted(path.name for path in folder.iterdir()) == [
        'addict-2.4.0-py3-none-any.whl',
        'onedl_mmcv-2.3.6.tar.gz',
    ]
    assert 'no ready wheel of mmcv' in said
    wheel = next(line for line in log.read_text().splitlines() if '--wheel-dir' in line)
    assert 'spconv-cu126>=2.3.8,<2.4' in wheel
    extras = set(re.search(r'\[(.+)\]', wheel)[1].split(','))
    named = set(re.findall(r"^        '(\w+)': ", Path(repo, 'setup.py').read_text(), re.MULTILINE))
    # Those of setup.py but for pages, tools and what no test on a GPU uses: a new extra is one or the other.
    assert extras == named - {'dev', 'docs', 'app', 'lora'}


@pytest.mark.slow
def test_stubs_are_what_pip_takes_for_torch(run, repo, tmp_path):
    """A local version goes before the same one without, whose wheel fits the machine more closely."""
    script = (repo / 'tools/gpu_wheels.sh').read_text().replace('main "$@"', 'make_stubs "$@"')
    (tmp_path / 'stubs.sh').write_text(script.replace('python=python3.12', 'python=python'))
    run('bash', tmp_path / 'stubs.sh', tmp_path, 'torch==2.11.0+there')
    stub = tmp_path / 'torch-2.11.0+there-py3-none-any.whl'
    done = run(
        *('python', '-m', 'pip', 'download', '--no-index', '--find-links', tmp_path, '--dest', tmp_path / 'out'),
        'torch>=1.11',
    )
    assert 'torch-2.11.0+there' in done.stdout and (tmp_path / 'out' / stub.name).is_file()
