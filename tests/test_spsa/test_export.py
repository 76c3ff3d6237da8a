"""Export to ONNX and TorchScript: equal numbers at other sizes, and which operations are in the graph."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmplugins.spsa import SPSA
from mmplugins.spsa.__main__ import main
from mmplugins.spsa.export import Exported, build_model, check, to_onnx, to_torchscript

onnx = pytest.importorskip('onnx', reason='pip install onnx onnxscript onnxruntime')
pytest.importorskip('onnxruntime', reason='pip install onnx onnxscript onnxruntime')

SMALL = 'configs/spsa/spsanet-micro_1xb32-40e_clothing10.py'
# Means, element by element, sigmoid, reshapes and what computes shapes.
SIMPLE = {
    'ReduceMean', 'ReduceSum', 'Exp', 'Add', 'Sub', 'Mul', 'Div', 'Pow', 'Sqrt', 'Reciprocal', 'Clip', 'Max', 'Min',
    'Sigmoid', 'Reshape', 'Shape', 'Gather', 'Concat', 'Constant', 'Unsqueeze', 'Slice', 'Cast', 'Identity',
}  # fmt: skip
VARIANTS = [
    pytest.param(dict(), id='gate'),
    pytest.param(dict(act='sigmoid'), id='sigmoid'),
    pytest.param(dict(act='raw', key='mean_normed'), id='mean_normed'),
    pytest.param(dict(act='softmax'), id='softmax'),
    pytest.param(dict(mode='agg'), id='agg'),
]


def network(**options) -> Exported:
    return Exported(nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), SPSA(32, **options)).eval())


def operations(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(path)).graph.node} - {'Conv'}


@pytest.mark.parametrize('options', VARIANTS)
def test_layer(options, tmp_path):
    module = network(**options)
    assert to_onnx(module, tmp_path / 'a.onnx', size=(20, 24)) < 1e-5
    assert to_torchscript(module, tmp_path / 'a.pt', size=(20, 24)) < 1e-6
    found = operations(tmp_path / 'a.onnx')
    extra = {'MatMul', 'Transpose'} if 'mode' in options else set()
    assert found <= SIMPLE | extra, found - SIMPLE - extra


@pytest.mark.parametrize('opset', [11, 17])
def test_opsets(opset, tmp_path):
    assert to_onnx(network(), tmp_path / 'a.onnx', size=(8, 8), opset=opset) < 1e-5
    assert onnx.load(str(tmp_path / 'a.onnx')).opset_import[0].version == opset
    assert not {'MatMul', 'GlobalAveragePool', 'AveragePool', 'Loop', 'If'} & operations(tmp_path / 'a.onnx')


@pytest.mark.slow
@pytest.mark.parametrize('options', [dict(), dict(mode='agg')], ids=['gate', 'agg'])
def test_compiles_without_graph_breaks(options):
    x = torch.randn(2, 32, 6, 6, requires_grad=True)
    layer = SPSA(32, **options)
    compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(x), layer(x))
    a, b = (torch.autograd.grad(function(x).square().sum(), x)[0] for function in (compiled, layer))
    torch.testing.assert_close(a, b)


def test_what_is_written_of_which_model(repo):
    module = build_model(repo / SMALL)
    assert module.outputs == 'logits'
    assert module(torch.zeros(1, 3, 64, 64))[0].shape == (1, 10)
    module = build_model(repo / 'configs/spsa/fcos_spsanet-micro_1xb8-12e_bccd.py')
    assert module.outputs == 'features'
    assert [tuple(y.shape) for y in module(torch.zeros(1, 3, 64, 96))] == [(1, 48, 8, 12), (1, 48, 4, 6), (1, 48, 2, 3)]


def test_command(repo, tmp_path, capsys):
    """With weights, from any folder; the files give what the model gives."""
    import onnxruntime

    module = build_model(repo / SMALL)
    for parameter in module.model.parameters():
        nn.init.normal_(parameter, std=0.1)
    torch.save(module.model.state_dict(), tmp_path / 'weights.pth')
    files = [str(tmp_path / 'out/net.onnx'), str(tmp_path / 'out/net.pt')]
    arguments = ['export', str(repo / SMALL), str(tmp_path / 'weights.pth'), '--size', '64', '64']
    assert main([*arguments, '--onnx', files[0], '--torchscript', files[1]]) == 0
    assert 'net.onnx: logits, differs from torch by' in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['net.onnx', 'net.pt']  # nothing temporary
    x = torch.randn(3, 3, 70, 90)
    expected = module.eval()(x)[0].detach().numpy()
    session = onnxruntime.InferenceSession(files[0], providers=['CPUExecutionProvider'])
    np.testing.assert_allclose(session.run(None, {'input': x.numpy()})[0], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(torch.jit.load(files[1])(x)[0].detach().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_wrong_numbers_are_not_kept(tmp_path, monkeypatch):
    """A graph that was traced with another network is noticed, and no file is left."""
    module = network()
    trace = torch.jit.trace
    other = network()
    monkeypatch.setattr(torch.jit, 'trace', lambda _, x, **options: trace(other, x, **options))
    with pytest.raises(RuntimeError, match='TorchScript differs from torch by .* nothing was written'):
        to_torchscript(module, tmp_path / 'a.pt', size=(8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('found', 'difference'), [(np.zeros((1, 32, 3, 3)), 'inf'), (np.full((1, 32, 5, 6), np.nan), 'nan')]
)
def test_other_shapes_and_nan_are_a_difference(found, difference):
    with pytest.raises(RuntimeError, match=f'differs from torch by {difference} at 5 x 6'):
        check('It', lambda x: [found], network(), [(5, 6)])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{config}'], 'give --onnx FILE'),
        (['missing.py', '--onnx', 'a.onnx'], 'no file missing.py'),
        (['{config}', 'missing.pth', '--onnx', 'a.onnx'], 'no file missing.pth'),
        (['{folder}/empty.py', '--onnx', 'a.onnx'], 'has no model'),
    ],
)
def test_bad_arguments(arguments, message, repo, tmp_path, capsys):
    (tmp_path / 'empty.py').write_text('a = 1\n')
    assert main(['export', *(a.format(config=repo / SMALL, folder=tmp_path) for a in arguments)]) == 1
    assert message in capsys.readouterr().err


def test_without_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ImportError, match='pip install onnx'):
        to_onnx(network(), tmp_path / 'a.onnx')


@pytest.mark.slow
@pytest.mark.parametrize('write', [to_onnx, to_torchscript])
def test_network_of_a_host_that_is_not_free_in_size(write, repo, tmp_path):
    """MobileViT writes the number of its patches into the graph."""
    module = build_model(repo / 'configs/spsa/spsa-mobilevit-xxs_8xb128-300e_in1k.py')
    with pytest.raises(RuntimeError, match='give --fixed'):
        write(module, tmp_path / 'a', size=(64, 64))
    assert not list(tmp_path.iterdir())
    assert write(module, tmp_path / 'a', size=(64, 64), fixed=True) < 1e-4


@pytest.mark.slow
def test_network_of_a_host(repo, tmp_path):
    module = build_model(repo / 'configs/spsa/spsa-mobilenet-v2_8xb32-300e_in1k.py')
    assert to_onnx(module, tmp_path / 'a.onnx', size=(64, 96)) < 1e-4
    assert to_torchscript(module, tmp_path / 'a.pt', size=(64, 96)) < 1e-4
