"""tools/install.sh with the real pip, torch and compiler on a tiny mmcv: its ops are one function, for CPU or GPU.

Its setup.py decides as mmcv's does: CUDA if torch sees a GPU or FORCE_CUDA=1. The GPU is simulated: nvidia-smi says
that there is one, and torch's question is answered.
"""

import shutil
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.version.cuda is None, reason='torch without CUDA'),
    pytest.mark.skipif(not shutil.which('g++'), reason='no g++'),
]

TOOLKIT = Path(f'/usr/local/cuda-{torch.version.cuda}')
SETUP = """
import os, torch
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

cuda = torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'
sources = ['ext.cpp', 'one.cu'] if cuda else ['ext.cpp']
ext = (CUDAExtension if cuda else CppExtension)('mmcv._ext', sources, define_macros=[('CUDA', None)] if cuda else [])
setup(name='onedl-mmcv', version='2.3.6', packages=['mmcv', 'mmcv.ops'], ext_modules=[ext],
      cmdclass=dict(build_ext=BuildExtension))
"""
EXT = """
#include <Python.h>
#ifdef CUDA
int one();
static PyObject* version(PyObject*, PyObject*) { return PyUnicode_FromString(one() ? "13.0" : ""); }
#else
static PyObject* version(PyObject*, PyObject*) { return PyUnicode_FromString("not available"); }
#endif
static PyMethodDef methods[] = {{"get_compiling_cuda_version", version, METH_NOARGS, ""}, {}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_ext", "", -1, methods};
PyMODINIT_FUNC PyInit__ext() { return PyModule_Create(&module); }
"""
ONE = '__global__ void kernel() {}\nint one() { void (*f)() = kernel; return f != nullptr; }\n'
OPS = 'import torch\nfrom .._ext import get_compiling_cuda_version\n'
# Answers torch.cuda.is_available() as the real one does on a node with a GPU.
GPU = """
import importlib.machinery, os, sys

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name != 'torch.cuda':
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        real = spec.loader.exec_module
        def exec_module(module):
            real(module)
            module.is_available = lambda: os.environ.get('CUDA_VISIBLE_DEVICES') != ''
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Hook())
"""
NOT_SHARED = ('mmcv', 'onedl_mm', 'mmplugins', '__editable__', '__pycache__')


@pytest.fixture
def real(bare, tmp_path):
    """Return an environment with the packages of this one, but mmcv and the hosts; pip finds the tiny mmcv."""
    shutil.rmtree(bare.site / 'pip')
    shared = tmp_path / 'shared'
    shared.mkdir()
    for path in Path(sysconfig.get_path('purelib')).iterdir():
        if not path.name.startswith(NOT_SHARED):
            (shared / path.name).symlink_to(path)
    (bare.site / 'shared.pth').write_text(f'{shared}\n')
    (bare.folder / 'bin/ninja').symlink_to(Path(sys.executable).with_name('ninja'))
    source = tmp_path / 'onedl_mmcv-2.3.6'
    (source / 'mmcv/ops').mkdir(parents=True)
    (source / 'mmcv/__init__.py').touch()
    (source / 'mmcv/ops/__init__.py').write_text(OPS)
    (source / 'PKG-INFO').write_text('Metadata-Version: 2.1\nName: onedl-mmcv\nVersion: 2.3.6\n')
    for name, text in {'setup.py': SETUP, 'ext.cpp': EXT, 'one.cu': ONE}.items():
        (source / name).write_text(text)
    (source / 'MANIFEST.in').write_text('include *.cu *.cpp\n')
    found = tmp_path / 'found'
    found.mkdir()
    with tarfile.open(found / 'onedl_mmcv-2.3.6.tar.gz', 'w:gz') as archive:
        archive.add(source, source.name)
    # Making torch's header takes half a minute of a small test: the compiler cannot, and each file is compiled without.
    compiler = bare.program(
        'g++-without-headers', f'case "$*" in *c++-header*) exit 1 ;; esac\nexec {shutil.which("g++")} "$@"'
    )
    bare.env.update(PIP_NO_INDEX='1', PIP_FIND_LINKS=str(found), CXX=str(compiler), TMPDIR=str(tmp_path / 'tmp'))
    bare.env.pop('PIP_EXTRA_INDEX_URL', None)
    (tmp_path / 'tmp').mkdir()
    return bare


def compiled_for(env) -> str:
    """Return what mmcv's ops are compiled for, or why they do not load."""
    return env.python('-c', 'from mmcv.ops import get_compiling_cuda_version as f; print(f())')[1].strip()


def test_a_gpu_without_nvcc_gets_ops_for_the_cpu_if_asked_for(real, tmp_path):
    real.simulate_gpu()
    (real.site / 'gpu.pth').write_text('import simulated_gpu\n')
    (real.site / 'simulated_gpu.py').write_text(GPU)
    code, output = real.install()
    assert code == 1
    assert 'no CUDA compiler (nvcc)' in output
    assert 'To use the CPU only: FORCE_CUDA=0' in output

    real.add('onedl-mmcv', '2.3.6')  # without ops; pip takes it for what is asked for
    code, output = real.install(FORCE_CUDA='0')
    assert 'compiling its ops (CUDA: 0' in output
    assert compiled_for(real) == 'not available', output
    assert not list((tmp_path / 'tmp').iterdir())  # what the compiler was wrapped in is gone


@pytest.mark.skipif(not TOOLKIT.is_dir(), reason=f'no {TOOLKIT}')
def test_ops_for_the_gpu_on_a_machine_without_one(real):
    real.env['CUDA_HOME'] = str(TOOLKIT)
    code, output = real.install(FORCE_CUDA='1')
    assert code == 1
    assert 'Set TORCH_CUDA_ARCH_LIST' in output

    code, output = real.install(FORCE_CUDA='1', TORCH_CUDA_ARCH_LIST='9.0')
    assert 'compiling its ops (CUDA: 1' in output
    assert compiled_for(real) == '13.0', output
