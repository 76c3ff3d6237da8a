import pytest
import torch
from mmpretrain.models import SparKLightDecoder

from mmplugins.hgkd import HGKDUNetDecoder

BN = dict(type='BN')


def levels(num: int, width: int = 32) -> list[torch.Tensor]:
    return [torch.randn(2, width >> i, 2 << i, 3 << i) for i in range(num)]


def test_stride_1_is_sparks_decoder_without_the_projection():
    mine, host = HGKDUNetDecoder(64, 32, out_stride=1, norm_cfg=BN), SparKLightDecoder(64, 32, norm_cfg=BN)
    missing = host.load_state_dict(mine.state_dict(), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (['proj.weight', 'proj.bias'], [])
    skips = levels(4, 64)
    torch.testing.assert_close(host.proj(mine(skips)), host(skips), rtol=0, atol=0)


@pytest.mark.parametrize('stride', [1, 2, 4, 8, 16, 32])
def test_shapes_and_gradients_of_every_skip_and_parameter(stride):
    decoder = HGKDUNetDecoder(64, 32, out_stride=stride, norm_cfg=BN)
    skips = [skip.requires_grad_() for skip in levels(min(decoder.num_levels, 4), 64)]
    out = decoder(skips)
    assert out.shape == (2, decoder.out_channels, 2 * 32 // stride, 3 * 32 // stride)
    assert decoder.out_channels == 64 * stride // 32
    out.square().sum().backward()
    assert all(tensor.grad is not None for tensor in [*skips, *decoder.parameters()])


def test_last_skip_is_added_after_the_last_block():
    decoder = HGKDUNetDecoder(32, 32, out_stride=4, norm_cfg=BN).eval()
    *deep, last = levels(4)
    torch.testing.assert_close(decoder([*deep, last]), decoder(deep) + last, rtol=0, atol=0)


@pytest.mark.parametrize('ratio, stride', [(32, 64), (32, 3), (24, 4), (32, 0)])
def test_strides_that_are_no_powers_of_2_are_an_error(ratio, stride):
    with pytest.raises(ValueError, match='must be powers of 2'):
        HGKDUNetDecoder(64, ratio, stride)


def test_too_few_channels_and_too_many_levels_are_errors():
    with pytest.raises(ValueError, match='feature_dim 12 cannot be halved from stride 32 to 4'):
        HGKDUNetDecoder(12, 32, 4)
    with pytest.raises(ValueError, match='3 levels for a decoder of 1 blocks'):
        HGKDUNetDecoder(32, 32, 16, norm_cfg=BN)(levels(3))
