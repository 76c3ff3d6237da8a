"""spconv on a CPU: the guard, and what is said when it is absent or installed twice."""

import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from mmplugins.hgkd import ActiveMask, HGKDSparseResNet, draw_cells
from mmplugins.hgkd.sparse.encoder import build_engine
from mmplugins.hgkd.sparse.layers import to_active
from mmplugins.hgkd.sparse.spconv import check_wheels, load_spconv, one_thread

needs_spconv = pytest.mark.skipif(find_spec('spconv') is None, reason='spconv is not installed')


@pytest.fixture
def first_time():
    """spconv as if nothing had asked for it yet."""
    load_spconv.cache_clear()


@pytest.fixture
def two_threads():
    """Two threads in torch for the time of a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@needs_spconv
def test_two_threads_do_not_race(two_threads):
    mask, x = ActiveMask(draw_cells(4, (7, 7), 0.6)), torch.randn(4, 32, 56, 56)
    layer = to_active(nn.Conv2d(32, 32, 3, padding=1, bias=False))

    def both_ways(engine: str) -> tuple[torch.Tensor, torch.Tensor]:
        given = x.clone().requires_grad_()
        out = layer(build_engine(engine).start(given, mask)).dense()
        return out.detach(), *torch.autograd.grad(out.sin().sum(), given)

    expected = both_ways('dense')
    first, *again = (both_ways('spconv') for _ in range(10))
    for mine, right in zip(first, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-5)
    for other in again:
        assert all(torch.equal(a, b) for a, b in zip(other, first, strict=True))
    assert torch.get_num_threads() == 2


def test_guard_sets_one_thread_and_gives_them_back_after_an_error(two_threads):
    seen = []

    def work(features: torch.Tensor, fail: bool) -> int:
        seen.append(torch.get_num_threads())
        if fail:
            raise RuntimeError('from inside')
        return 7

    assert one_thread(work)(torch.zeros(1), False) == 7
    with pytest.raises(RuntimeError, match='from inside'):
        one_thread(work)(torch.zeros(1), fail=True)
    assert seen == [1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.slow  # a process of its own
@needs_spconv
def test_guard_is_put_on_with_the_first_engine_and_once(run):
    script = """
import mmplugins.hgkd, sys
assert 'spconv' not in sys.modules
import spconv.pytorch.ops as ops
from mmplugins.hgkd.sparse.encoder import build_engine
build_engine('rows'), build_engine('dense')
assert not hasattr(ops.indice_conv, 'one_thread')
build_engine('spconv')
guarded = ops.indice_conv
assert guarded.one_thread and ops.indice_conv_backward.one_thread
build_engine('spconv')
assert ops.indice_conv is guarded
"""
    run(sys.executable, '-W', 'ignore', '-c', script)


def test_absent_spconv_names_the_install_line(monkeypatch, first_time):
    for name in [name for name in sys.modules if name.partition('.')[0] == 'spconv']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'spconv', None)  # import fails
    with pytest.raises(ImportError, match=r'needs spconv: pip install "spconv>=2.3.8"'):
        HGKDSparseResNet(18, backend='spconv')
    HGKDSparseResNet(18)  # the others need none


def test_a_broken_spconv_is_not_said_to_be_missing(monkeypatch, first_time, tmp_path):
    """Another Python, CUDA or numpy than its wheel was built for."""
    for name in [name for name in sys.modules if name.partition('.')[0] == 'spconv']:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / 'spconv').mkdir()
    (tmp_path / 'spconv/__init__.py').write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r'spconv is installed and broken \(OSError: libcudart.so.12'):
        build_engine('spconv')


def test_two_wheels_are_an_error():
    check_wheels(['spconv', 'spconv-triton', 'cumm', 'torch'])
    check_wheels(['Spconv_cu126', 'spconv-cu126'])  # one, found twice on the path
    with pytest.raises(ImportError, match='pip uninstall -y spconv spconv-cu126, then'):
        check_wheels(['spconv', 'spconv_cu126'])


def test_two_wheels_on_the_path_are_found(tmp_path, monkeypatch, first_time):
    for name, version in (('spconv', '2.3.8'), ('spconv_cu120', '2.3.6')):
        folder = tmp_path / f'{name}-{version}.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name.replace("_", "-")}\nVersion: {version}\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match='spconv and spconv-cu120 are installed and share one folder'):
        build_engine('spconv')
