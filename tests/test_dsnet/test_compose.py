"""Backbone and pyramid under LoRA, quantization, DDP and FSDP, and as captured graphs; see DETAILS.md."""

import pytest
from torch import nn

from mmplugins.dsnet import DSFPN, DSBlock, DSNet

ARCH = dict(embed_dims=(16, 32), depths=(1, 1), num_heads=(1, 2), global_ratios=(4, 2))


class Network(nn.Module):
    """Two stages and a pyramid over them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = DSNet(ARCH, out_indices=(0, 1), out_norm='all', drop_path_rate=0.0, attn_drop_rate=0.0)
        self.neck = DSFPN([16, 32], 16, num_outs=2, head_dim=8, zero_init=False)

    def forward(self, x):
        return self.neck(self.backbone(x))


@pytest.fixture
def net(shake):
    return shake(Network())


def test_lora_by_hand(composing, net):
    composing.check_lora(net)


def test_lora_of_peft(composing, net):
    composing.check_peft(net, pytest.importorskip('peft', reason='pip install peft'))


def test_quantize_dynamic(composing, net):
    composing.check_quantize_dynamic(net)


def test_ddp_without_warnings(composing, net):
    composing.check_ddp(net)


def test_fsdp_shards_blocks(composing, net):
    composing.check_fsdp(net, (DSBlock,))


@pytest.mark.slow
def test_export_by_torch_for_free_sizes(composing, net):
    composing.check_export(net.backbone)


@pytest.mark.slow
def test_export_to_onnx_with_weights_of_8_bits(composing, net):
    composing.check_onnx(net, pytest.importorskip('onnxruntime'), int8=True, tolerance=0.2)
