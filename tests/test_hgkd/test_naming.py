"""Weights of masked autoencoders in others' names, against their own networks."""

import pytest
import torch
from mmpretrain.registry import MODELS

from mmplugins.hgkd.teachers.loading import build_teacher
from mmplugins.hgkd.teachers.naming import to_mmpretrain

transformers = pytest.importorskip('transformers')

ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
MAEVIT = dict(type='MAEViT', arch=ARCH, img_size=64, patch_size=16)
DECODER = dict(
    type='MAEPretrainDecoder', num_patches=16, embed_dim=32, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2,
    mlp_ratio=2,
)  # fmt: skip


@pytest.fixture
def hf():
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=32, mask_ratio=0.0, layer_norm_eps=1e-6,
    )  # fmt: skip
    return transformers.ViTMAEForPreTraining(config).eval()


def test_transformers_names(hf, tmp_path):
    """Encoder and decoder give what those of transformers give, patches in their order."""
    torch.save(hf.state_dict(), tmp_path / 'hf.pth')
    images, order = torch.randn(2, 3, 64, 64), torch.arange(16.0).expand(2, -1)
    with torch.no_grad():
        encoded = hf.vit(images, noise=order)
        decoded = hf.decoder(encoded.last_hidden_state, encoded.ids_restore).logits
        vit = build_teacher(MAEVIT, str(tmp_path / 'hf.pth'))
        vit.eval()
        torch.testing.assert_close(vit(images, mask=None)[-1], encoded.last_hidden_state, rtol=1e-4, atol=1e-5)
        decoder = MODELS.build(DECODER)
        weights = to_mmpretrain(hf.state_dict())
        own = {key.removeprefix('neck.'): value for key, value in weights.items() if key.startswith('neck.')}
        decoder.load_state_dict(own, strict=True)
        decoder.eval()
        mine = decoder(encoded.last_hidden_state, encoded.ids_restore)
        torch.testing.assert_close(mine, decoded, rtol=1e-4, atol=1e-5)


def test_fair_names(tmp_path):
    """timm's ViT is the encoder of FAIR's MAE, under the same names."""
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2
    ).eval()
    torch.save(dict(model={**theirs.state_dict(), 'mask_token': torch.zeros(1, 1, 16)}), tmp_path / 'fair.pth')
    vit = build_teacher(MAEVIT, str(tmp_path / 'fair.pth'))
    vit.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(vit(images, mask=None)[-1], theirs.forward_features(images), rtol=1e-4, atol=1e-5)


def test_other_names_stay():
    vit = MODELS.build(MAEVIT)
    assert to_mmpretrain(vit.state_dict()).keys() == vit.state_dict().keys()
