"""Targets without files."""

import numpy as np
import pytest
import torch
from mmpretrain.models.selfsup import HOGGenerator
from mmpretrain.models.selfsup.cae import DALLEEncoder

from mmplugins.cae.targets.codebook import windows_of
from mmplugins.cae.targets.dalle import DALLETokenTarget
from mmplugins.cae.targets.pixels import HOGTarget, KMeansTokenTarget, PixelTarget


@pytest.fixture
def tokens():
    return KMeansTokenTarget('clothing10-p8-k128')


def test_tokens_are_the_nearest_centers(tokens):
    images = torch.rand(2, 3, 24, 40)
    expected = torch.cdist(windows_of(images, 8, 8), tokens.centers[None]).argmin(-1)
    assert tokens(images).shape == (2, 15) and torch.equal(tokens(images), expected)


def test_tokens_of_their_own_patches(tokens):
    ids = torch.randint(tokens.num_tokens, (2, 15))
    patches = tokens.patches(ids)
    assert patches.shape == (2, 15, 3, 8, 8)
    images = patches.unflatten(1, (3, 5)).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 24, 40)
    assert torch.equal(tokens(images), ids)


def test_pixels_are_those_of_the_patch():
    images = torch.rand(2, 3, 16, 24)
    assert torch.equal(PixelTarget(8, normalize=False)(images), windows_of(images, 8, 8))


def test_normalized_pixels():
    target, images = PixelTarget(8), torch.rand(2, 3, 16, 24)
    values = target(images)
    torch.testing.assert_close(values.mean(-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(-1), torch.ones(2, 6), atol=1e-3, rtol=0)
    torch.testing.assert_close(target(images * 7 + 3), values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(target.denormalize(values, images), windows_of(images, 8, 8), atol=1e-5, rtol=0)
    assert torch.isfinite(target(torch.ones(1, 3, 8, 8))).all()  # a flat patch


def test_gradients_equal_the_hosts_on_its_size():
    images = torch.rand(1, 3, 224, 224)
    ours = HOGTarget(16)(images)
    host = HOGGenerator(gaussian_window=0)(images)  # (B, 196, 27 * 4)
    torch.testing.assert_close(ours[:, 1:], host)
    torch.testing.assert_close(ours[:, 0], host.mean(1))


def test_gradients_of_any_grid():
    target, images = HOGTarget(8, pool=4), torch.rand(2, 3, 24, 40)
    whole = target(images)
    assert whole.shape == (2, 16, 108)
    inner = images[..., 0:16, 0:16]  # patches that do not touch the cut see the same pixels
    torch.testing.assert_close(target(inner)[:, 1], whole[:, 1])


@pytest.mark.parametrize('target', [HOGTarget(8, pool=4), PixelTarget(8)], ids=lambda x: type(x).__name__)
def test_patches_must_divide_the_image(target):
    with pytest.raises(ValueError, match='patches of 8 pixels do not divide'):
        target(torch.rand(1, 3, 24, 42))


def test_cells_must_divide_the_patch():
    with pytest.raises(ValueError, match='cells of 8 pixels do not divide patches of 12'):
        HOGTarget(12)


@pytest.mark.parametrize('channels', [1, 3, 5])
def test_pixels_and_tokens_of_any_number_of_channels(tmp_path, channels):
    images = torch.rand(2, channels, 16, 24)
    assert PixelTarget(8)(images).shape == (2, 6, channels * 64)
    centers = torch.rand(7, channels * 64)
    np.savez(tmp_path / 'book.npz', centers=centers.numpy(), patch_size=8, window=8)
    target = KMeansTokenTarget(tmp_path / 'book.npz')
    assert torch.equal(target(images), torch.cdist(windows_of(images, 8, 8), centers[None]).argmin(-1))
    assert target.patches(target(images)).shape == (2, 6, channels, 8, 8)


def test_wrong_number_of_channels_is_told(tokens):
    with pytest.raises(ValueError, match='images of 1 channels for a codebook of 3'):
        tokens(torch.rand(1, 1, 16, 16))
    with pytest.raises(ValueError, match='images of 1 channels; histograms'):
        HOGTarget(8, pool=4)(torch.rand(1, 1, 16, 16))


def test_a_cast_of_the_model_leaves_tokens_alone(tokens):
    images = torch.rand(4, 3, 24, 40)
    expected = tokens(images)
    model = torch.nn.ModuleDict(dict(target=tokens)).bfloat16()
    assert torch.equal(model.target(images), expected) and model.target.centers.dtype == torch.float32


def test_dall_e_reads_openais_file(tmp_path):
    source = DALLEEncoder(n_hid=8, vocab_size=32)
    torch.save(source.state_dict(), tmp_path / 'encoder.pkl')  # the pickled module itself: test_house/test_weights.py
    cfg = dict(n_hid=8, vocab_size=32, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'encoder.pkl')))
    target = DALLETokenTarget(**cfg)
    target.init_weights()
    images = torch.rand(2, 3, 16, 24)
    expected = source(images)
    assert torch.equal(target(images), expected) and target.num_tokens == 32
    with torch.autocast('cpu', torch.bfloat16):  # its tokens stay those of single precision
        assert torch.equal(target.bfloat16()(images), expected)
    state = source.state_dict()
    del state['blocks.output.conv.w']
    torch.save(state, tmp_path / 'encoder.pkl')
    with pytest.raises(ValueError, match=r'encoder.pkl does not fit DALLETokenTarget: 1 weights differ'):
        target.init_weights()
