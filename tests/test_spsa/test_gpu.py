"""SPSA on CUDA beside the CPU."""

from functools import partial

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from mmplugins.spsa import SPSA
from mmplugins.spsa.blocks import OneResidualBlock


@pytest.fixture
def model(repo):
    init_default_scope('mmpretrain')
    return MODELS.build(Config.fromfile(repo / 'configs/spsa/spsanet-micro_1xb32-40e_clothing10.py').model)


def test_float32_is_that_of_the_cpu(parity, device, model):
    parity.check_step(model, parity.classify, device)


def test_half_precision_is_finite(parity, device, model):
    parity.check_half(model, parity.classify, device)


def test_compiled(parity, device):
    block = OneResidualBlock(64, dict(type='SPSA', head_dim=16), expansion=3, norm_cfg=dict(type='BN'))
    parity.check_compiled(block, partial(parity.look, shape=(2, 64, 16, 16)), device)


def test_forward_does_not_wait(parity, device, model):
    backbone, images = model.backbone.to(device), torch.randn(2, 3, 64, 64).to(device)
    backbone(images)
    with parity.no_host_sync(device):
        backbone(images)


@pytest.mark.parametrize('mode', ['gate', 'agg'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_layer_in_half_precision_is_close(device, mode, dtype):
    layer, x = SPSA(64, mode=mode), torch.randn(2, 64, 32, 32)
    with torch.autocast(device, dtype):
        found = layer(x.to(device, dtype))
    torch.testing.assert_close(found.float().cpu(), layer(x), atol=5e-2, rtol=2e-2)
