"""Feature maps for detection and segmentation."""

import pytest
import torch

from mmplugins.cae.transfer.dense_vit import CAEDenseViT, ViTPyramid

ARCH = dict(embed_dims=48, num_layers=4, num_heads=4, feedforward_channels=192)


@pytest.mark.parametrize('size', [(32, 32), (40, 24), (30, 50)], ids=str)
@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no bias'])
def test_one_map_a_block_for_any_image(size, bias):
    model = CAEDenseViT(
        ARCH,
        32,
        patch_size=8,
        out_indices=[0, 1, 3],
        use_rel_pos_bias=bias,
        pos_resize='bicubic' if bias else 'rebuild',
    )
    model.init_weights()
    maps = model(torch.randn(2, 3, *size))
    assert [tuple(x.shape) for x in maps] == [(2, 48, -(-size[0] // 8), -(-size[1] // 8))] * 3


def test_a_map_is_the_tokens_in_raster_order():
    model = CAEDenseViT(ARCH, 32, patch_size=8, out_indices=[1])
    model.init_weights()
    model.eval()
    image = torch.randn(1, 3, 32, 48)
    seen = []
    model.layers[1].register_forward_hook(lambda module, args, output: seen.append(output))
    (found,) = model(image)
    for row in range(4):
        for column in range(6):
            assert torch.equal(found[0, :, row, column], seen[0][0, 1 + row * 6 + column])


def test_taps_are_those_of_the_paper():
    with torch.device('meta'):
        assert CAEDenseViT('tiny', 32).out_indices == [3, 5, 7, 11]
        for arch in ('large', 'Large', {**ARCH, 'num_layers': 24}):
            assert CAEDenseViT(arch, 32).out_indices == [7, 11, 15, 23]
    with pytest.raises(ValueError, match='set out_indices: there is no default for 4 blocks'):
        CAEDenseViT(ARCH, 32)


@pytest.mark.parametrize('scales', [(4, 2, 1, 0.5), (2, 1, 0.5, 0.25)], ids=str)
def test_pyramid_equals_that_of_mmseg(scales):
    from mmseg.models.necks import Feature2Pyramid

    norm_cfg = dict(type='BN')
    host = Feature2Pyramid(8, rescales=list(scales), norm_cfg=norm_cfg)
    model = ViTPyramid(8, scales=scales, norm_cfg=norm_cfg)
    model.load_state_dict(dict(zip(model.state_dict(), host.state_dict().values(), strict=True)))
    maps = [torch.randn(2, 8, 6, 4) for _ in scales]
    for scale, one, other in zip(scales, model(maps), host(maps), strict=True):
        torch.testing.assert_close(one, other)
        assert one.shape[-2:] == (int(6 * scale), int(4 * scale))


def test_unknown_scale_is_told():
    with pytest.raises(ValueError, match=r'not \[3\]'):
        ViTPyramid(8, scales=(3, 1))
