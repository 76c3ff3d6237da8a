"""TorchScript and ONNX, of fixed and of free size, compute what torch computes."""

import warnings

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmplugins.dsnet import DSFPN, DSBlock, DSNet

TINY = dict(embed_dims=(16, 32, 48, 64), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), global_ratios=(8, 4, 2, 2))
SIZES = [(1, 96, 128), (3, 128, 64), (2, 101, 150)]  # batch, height, width; the last is padded


class Network(nn.Module):
    """Backbone and pyramid, with one scale more than stages."""

    def __init__(self, stages: int = 4, **options) -> None:
        super().__init__()
        arch = {key: values[:stages] for key, values in TINY.items()}
        self.backbone = DSNet(arch, out_indices=range(stages), **options)
        self.neck = DSFPN(list(arch['embed_dims']), 16, num_outs=stages + 1, head_dim=8, zero_init=False)

    def forward(self, x):
        return self.neck(self.backbone(x))


@pytest.fixture
def network(shake):
    return lambda **options: shake(Network(**options)).requires_grad_(False)


def compare(run, module, sizes) -> None:
    for size in sizes:
        x = torch.randn(size[0], 3, *size[1:])
        for found, expected in zip(run(x), module(x), strict=True):
            assert found.shape == expected.shape
            torch.testing.assert_close(torch.as_tensor(found), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('options', [dict(), dict(inter_scale_align=False), dict(split_ratio=0.0)])
def test_trace(options, network):
    module = network(**options)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the tracer, on the sizes that it does keep
        script = torch.jit.trace(module, torch.randn(1, 3, 96, 128), check_trace=False)
    compare(script, module, SIZES)


@pytest.mark.parametrize(
    ('opset', 'free'),
    [(14, True), pytest.param(17, True, marks=pytest.mark.slow), pytest.param(17, False, marks=pytest.mark.slow)],
)
def test_onnx(opset, free, network, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime', reason='pip install onnx onnxscript onnxruntime')
    pytest.importorskip('onnx', reason='pip install onnx onnxscript onnxruntime')
    module = network()
    axes = dict(input={0: 'batch', 2: 'height', 3: 'width'}) if free else None
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            module, (torch.randn(1, 3, 96, 128),), str(tmp_path / 'a.onnx'), input_names=['input'],
            output_names=[f'p{i}' for i in range(2, 7)], dynamic_axes=axes, opset_version=opset, dynamo=False,
        )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # on output shapes that are not in the file, as they are free
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(tmp_path / 'a.onnx'), options, providers=['CPUExecutionProvider'])
    compare(lambda x: session.run(None, {'input': x.numpy()}), module, SIZES if free else SIZES[:1])


def test_the_commands_of_the_details(repo, tmp_path, monkeypatch):
    """The block that exports runs as it is written, in an empty folder but for the configs."""
    pytest.importorskip('onnx', reason='pip install onnx onnxscript onnxruntime')
    onnxruntime = pytest.importorskip('onnxruntime', reason='pip install onnx onnxscript onnxruntime')
    text = (repo / 'projects/dsnet/DETAILS.md').read_text(encoding='utf-8')
    (block,) = (part.split('```')[0] for part in text.split('```python\n') if 'torch.onnx.export' in part)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(repo / 'configs')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        exec(compile(block, 'DETAILS.md', 'exec'), {})
    (path,) = tmp_path.glob('*.onnx')
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    x = np.zeros((2, 3, 72, 100), dtype=np.float32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: x})
    assert logits.shape == (2, 10) and np.isfinite(logits).all()


@pytest.mark.slow
def test_compiles_without_graph_breaks_for_free_sizes(network):
    module = network(stages=2)  # everything is in two stages, and torch needs a minute for four
    compiled = torch.compile(module, fullgraph=True, backend='aot_eager', dynamic=True)
    compare(compiled, module, [(2, 101, 150)])
    with torch.compiler.set_stance('fail_on_recompile'):
        # Also free in their padding, but not in whether the last map has odd sides: FPN's pooling depends on it.
        compare(compiled, module, [(3, 183, 215), (4, 71, 120)])


@pytest.mark.slow
def test_training_step_compiles_without_graph_breaks():
    """One image, and with what backward computes again."""
    block = DSBlock(16, 2, 4)
    compiled = torch.compile(block, fullgraph=True, backend='aot_eager', dynamic=True)
    for size in ((24, 40), (31, 23)):
        x = torch.randn(1, 16, *size, requires_grad=True)
        gradients = [torch.autograd.grad(f(x).square().sum(), [x, *block.parameters()]) for f in (compiled, block)]
        torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)


def test_small_config_of_the_detector_traces(repo):
    cfg = Config.fromfile(repo / 'configs/dsnet/retinanet_dsnet-micro_dsfpn_1xb8-6e_bccd.py')
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).eval().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        script = torch.jit.trace_module(model, dict(extract_feat=torch.randn(1, 3, 64, 96)), check_trace=False)
    compare(script.extract_feat, type('M', (), dict(__call__=lambda self, x: model.extract_feat(x)))(), [(2, 96, 128)])
