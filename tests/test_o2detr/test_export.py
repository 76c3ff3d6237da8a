"""Tracing and ONNX: the encoder, and the whole network from pixels to scores and boxes for any number of images."""

import numpy as np
import pytest
import torch
from torch import nn

from mmplugins.o2detr import DWSepEncoder
from mmplugins.o2detr.verbs.export import ExportedO2DETR, export_onnx

SHAPES = [(8, 12), (4, 6), (2, 3), (1, 2)]


class Encoder(nn.Module):
    def __init__(self, cross_level):
        super().__init__()
        cfg = dict(
            mixer_cfg=dict(embed_dims=16, cross_level=cross_level),
            ffn_cfg=dict(embed_dims=16, feedforward_channels=32),
        )
        self.encoder = DWSepEncoder(num_layers=2, layer_cfg=cfg)

    def forward(self, tokens, positions):
        return self.encoder(tokens, positions, None, torch.tensor(SHAPES))


class Network(nn.Module):
    """Pixels to the logits and normalized boxes of the last layer."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        logits, boxes = self.model(images, mode='tensor')
        return logits[-1], boxes[-1]


def export(model, inputs, path):
    onnx = pytest.importorskip('onnx')
    torch.onnx.export(model, inputs, str(path), dynamo=False, opset_version=16)
    return onnx.load(str(path))


def run(path, inputs):
    runtime = pytest.importorskip('onnxruntime')
    session = runtime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [x.name for x in session.get_inputs()]
    return session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})


@pytest.fixture
def encoder_inputs():
    tokens = sum(h * w for h, w in SHAPES)
    return torch.randn(2, tokens, 16), torch.randn(2, tokens, 16)


@pytest.mark.parametrize('cross_level', ['adjacent', 'none'])
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
class TestEncoder:
    def test_trace(self, cross_level, encoder_inputs):
        model = Encoder(cross_level).eval()
        traced = torch.jit.trace(model, encoder_inputs)
        other = tuple(torch.randn_like(x) for x in encoder_inputs)
        assert torch.allclose(traced(*other), model(*other), atol=1e-6)

    def test_onnx(self, cross_level, encoder_inputs, tmp_path):
        model, path = Encoder(cross_level).eval(), tmp_path / 'encoder.onnx'
        graph = export(model, encoder_inputs, path)
        assert {node.domain for node in graph.graph.node} <= {'', 'ai.onnx'}
        ops = {node.op_type for node in graph.graph.node}
        assert 'Conv' in ops and 'GridSample' not in ops and ('MaxPool' in ops) == (cross_level == 'adjacent')
        other = tuple(torch.randn_like(x) for x in encoder_inputs)
        assert np.allclose(run(path, other)[0], model(*other).detach().numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize(
    'changes',
    [
        {},
        dict(with_box_refine=True, as_two_stage=True),
        dict(with_box_refine=True, as_two_stage=True, recompute_query_pos=True, dn_cfg={}),
    ],
    ids=['base', 'refine_two_stage', 'as_shipped'],
)
class TestNetwork:
    @pytest.fixture
    def model(self, build_model, changes):
        model = build_model(**changes).eval()
        for branch in model.bbox_head.reg_branches:
            nn.init.normal_(branch[-1].weight, std=0.2)
        for branch in model.bbox_head.cls_branches:
            nn.init.normal_(branch.weight, std=0.2)
        return model

    def test_trace(self, model):
        network = Network(model)
        traced = torch.jit.trace(network, torch.rand(1, 3, 64, 96))
        images = torch.rand(1, 3, 64, 96)
        for found, expected in zip(traced(images), network(images), strict=True):
            assert torch.allclose(found, expected, atol=1e-5)

    def test_onnx_of_any_number_of_images(self, model, tmp_path):
        path = tmp_path / 'network.onnx'
        assert export_onnx(model, path, (128, 192)) < 1e-3  # two rows at least: ONNX has no linspace of one
        graph = pytest.importorskip('onnx').load(str(path))
        assert {node.domain for node in graph.graph.node} <= {'', 'ai.onnx'}
        for number in (1, 3):
            # Different pictures, so that results of another one would be seen.
            images = torch.rand(number, 3, 128, 192) * 255 * torch.arange(1, number + 1).view(-1, 1, 1, 1) / number
            alone = [ExportedO2DETR(model)(image[None]) for image in images]
            for found, expected in zip(run(path, (images,)), zip(*alone, strict=True), strict=True):
                expected = torch.cat(expected).detach().numpy()
                assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-2

    def test_a_network_that_gives_no_numbers_is_not_exported(self, model, tmp_path):
        model.bbox_head.reg_branches[-1][-1].bias.data.fill_(torch.nan)
        with pytest.raises(ValueError, match='differs from the model by nan'):
            export_onnx(model, tmp_path / 'network.onnx', (128, 192))
        assert not (tmp_path / 'network.onnx').exists()
