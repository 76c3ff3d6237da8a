"""DS-Net on CUDA beside the CPU."""

from functools import partial

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from mmplugins.dsnet import DSBlock, DSNet


@pytest.fixture
def model(repo):
    init_default_scope('mmpretrain')
    return MODELS.build(Config.fromfile(repo / 'configs/dsnet/dsnet-micro_1xb32-40e_clothing10.py').model)


def test_float32_is_that_of_the_cpu(parity, device, model):
    parity.check_step(model, parity.classify, device)


def test_half_precision_is_finite(parity, device, model):
    parity.check_half(model, parity.classify, device)


@pytest.mark.slow
def test_compiled(parity, device):
    block = DSBlock(64, num_heads=2, global_ratio=4)
    parity.check_compiled(block, partial(parity.look, shape=(2, 64, 16, 16)), device)


def test_forward_does_not_wait(parity, device, model):
    backbone, images = model.backbone.to(device), torch.randn(2, 3, 64, 64).to(device)
    backbone(images)
    with parity.no_host_sync(device):
        backbone(images)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_close(device, dtype):
    net = DSNet('tiny', out_norm='none').eval().requires_grad_(False)
    x = torch.randn(2, 3, 96, 128)
    expected = net(x)[0]
    scale = expected.abs().max()
    net, x = net.to(device), x.to(device)
    with torch.autocast(device, dtype):
        torch.testing.assert_close(net(x)[0].float().cpu() / scale, expected / scale, atol=3e-2, rtol=0)
