"""Targets without files."""

import pytest
import torch
from mmpretrain.models.selfsup import HOGGenerator

from mmplugins.cae.targets.codebook import windows_of
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
