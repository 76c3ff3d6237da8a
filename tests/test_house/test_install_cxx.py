"""tools/install_cxx.sh: the compiler of mmcv's build compiles as the real one does, and reads torch's headers once."""

import os
import shutil
from pathlib import Path

import pytest

COMPILER = shutil.which('g++') or shutil.which('clang++')
pytestmark = pytest.mark.skipif(not COMPILER, reason='no C++ compiler')


@pytest.fixture
def build(tmp_path, repo, run):
    """Return a function that compiles a source, with a header of torch that is small, and gives the object's bytes."""
    wrapper = tmp_path / 'wrapper' / Path(COMPILER).name
    wrapper.parent.mkdir()
    shutil.copy(repo / 'tools/install_cxx.sh', wrapper)
    header = tmp_path / 'include/torch/types.h'
    header.parent.mkdir(parents=True)
    header.write_text('#pragma once\ninline int three() { return 3; }\n')
    log = tmp_path / 'log'
    real = tmp_path / 'real'
    real.write_text(f'#!/bin/sh\necho "$@" >>{log}\nexec {COMPILER} "$@"\n')
    real.chmod(0o755)

    def build(name: str, source: str, *flags: str, check: bool = True):
        file = tmp_path / name
        file.write_text(source)
        command = ['-MMD', '-MF', file.with_suffix('.d'), f'-I{tmp_path / "include"}', '-O2', '-g0', *flags, '-c', file]
        out = file.with_suffix('.o')
        done = run(wrapper, *command, '-o', out, env=dict(REAL_CXX=str(real)), check=check)
        if done.returncode:
            return done.stdout
        plain = file.with_suffix('.plain.o')
        run(COMPILER, *command, '-o', plain)
        assert out.read_bytes() == plain.read_bytes()
        return out

    build.calls = lambda: log.read_text().splitlines()
    build.wrapper, build.real = wrapper, real
    return build


def test_the_header_is_made_once_and_used(build):
    for name in ('a.cpp', 'b.cpp'):
        build(name, '#include <torch/types.h>\nint f() { return three(); }\n')
    made = [call for call in build.calls() if 'c++-header' in call]
    used = [call for call in build.calls() if '-include' in call]
    assert (len(made), len(used), len(build.calls())) == (1, 2, 3)


def test_a_file_that_does_not_go_with_the_header_is_compiled_without(build):
    build('a.cpp', '#include <torch/types.h>\nint f() { return three(); }\n')
    build('b.cpp', 'int three = 3;\n')  # a name of the header's with another meaning
    assert '-include' not in build.calls()[-1]


def test_other_flags_than_those_of_the_header(build):
    build('a.cpp', '#include <torch/types.h>\nint f() { return three(); }\n')
    build('b.cpp', '#include <torch/types.h>\nint f() { return three() + OTHER; }\n', '-DOTHER=1', '-std=c++20')


def test_no_header_to_make(build, tmp_path):
    (tmp_path / 'include/torch/types.h').unlink()
    build('a.cpp', 'int f() { return 3; }\n')


def test_an_error_of_the_source_is_told_once(build):
    output = build('a.cpp', 'int f() { return x; }\n', check=False)
    assert output.count('error:') == 1


def test_linking_and_questions_go_straight_through(build, run, tmp_path):
    out = build('main.cpp', 'int main() { return 0; }\n')
    calls = len(build.calls())
    program = tmp_path / 'program'
    run(build.wrapper, out, '-o', program, env=dict(REAL_CXX=str(build.real)))
    assert os.access(program, os.X_OK)
    version = run(build.wrapper, '-dumpversion', env=dict(REAL_CXX=str(build.real))).stdout
    assert version == run(COMPILER, '-dumpversion').stdout
    assert len(build.calls()) == calls + 2
