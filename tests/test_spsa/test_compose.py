"""SPSANet under LoRA, quantization, DDP and FSDP, and as captured graphs; see DETAILS.md."""

import pytest
from torch import nn

from mmplugins.spsa import SPSANet
from mmplugins.spsa.blocks import OneResidualBlock, TwoResidualsBlock


class Network(nn.Module):
    """A map and logits."""

    def __init__(self, residuals: int) -> None:
        super().__init__()
        self.backbone = SPSANet(dict(dims=(16, 32), depths=(1, 1), residuals=residuals), out_indices=(0, 1))
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        first, second = self.backbone(x)
        return first, self.head(second.mean((2, 3)))


@pytest.fixture(params=[1, 2], ids=['one residual', 'two residuals'])
def net(request):
    return Network(request.param)


def test_lora_by_hand(composing, net):
    composing.check_lora(net)


def test_lora_of_peft(composing, net):
    composing.check_peft(net, pytest.importorskip('peft', reason='pip install peft'))


def test_quantize_dynamic(composing, net):
    composing.check_quantize_dynamic(net)


def test_ddp_without_warnings(composing, net):
    composing.check_ddp(net)


def test_fsdp_shards_blocks(composing, net):
    composing.check_fsdp(net, (OneResidualBlock, TwoResidualsBlock))


@pytest.mark.slow
def test_export_by_torch_for_free_sizes(composing, net):
    composing.check_export(net)


def test_export_by_trace_for_free_sizes(composing, net):
    composing.check_trace(net)


@pytest.mark.parametrize(('int8', 'tolerance'), [(False, 1e-4), (True, 0.1)], ids=['float32', 'int8'])
def test_export_to_onnx_for_free_sizes(composing, net, int8, tolerance):
    composing.check_onnx(net, pytest.importorskip('onnxruntime'), int8, tolerance)
