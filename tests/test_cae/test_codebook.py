"""k-means codebooks."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans

from mmplugins.cae.targets import codebook
from mmplugins.cae.targets.codebook import (
    fit_codebook,
    fit_kmeans,
    load_codebook,
    nearest,
    random_windows,
    read_image,
    windows_of,
)


def test_windows_are_patches_in_raster_order():
    images = torch.rand(2, 3, 4, 6)
    expected = [images[:, :, y : y + 2, x : x + 2].flatten(1) for y in (0, 2) for x in (0, 2, 4)]
    assert torch.equal(windows_of(images, 2, 2), torch.stack(expected, dim=1))


def test_larger_windows_are_centered():
    images = torch.rand(1, 3, 6, 6)
    windows = windows_of(images, 2, 4)
    assert torch.equal(windows[0, 4], images[0, :, 1:5, 1:5].flatten())
    assert torch.equal(windows.unflatten(-1, (3, 4, 4))[..., 1:3, 1:3].flatten(2), windows_of(images, 2, 2))


@pytest.mark.parametrize(
    ('patch', 'window', 'message'), [(4, 4, 'do not divide'), (2, 3, 'window=3'), (2, 1, 'window=1')], ids=str
)
def test_bad_windows(patch, window, message):
    with pytest.raises(ValueError, match=message):
        windows_of(torch.rand(1, 3, 6, 6), patch, window)


def test_nearest_is_brute_force():
    points, centers = torch.randn(5, 7, 4), torch.randn(9, 4)
    assert torch.equal(nearest(points, centers), torch.cdist(points, centers).argmin(-1))


def test_kmeans_is_as_good_as_sklearns():
    points = torch.cat([torch.randn(200, 6) + 8 * torch.randn(6) for _ in range(5)])

    def spread(centers):
        return float(torch.cdist(points, centers).min(1).values.square().mean())

    ours = min(spread(fit_kmeans(points, 5, 50, seed)) for seed in range(5))
    theirs = torch.tensor(KMeans(5, n_init=5, random_state=0).fit(points.numpy()).cluster_centers_)
    assert ours <= spread(theirs) * 1.01


def test_kmeans_fills_empty_clusters():
    points = torch.cat([torch.zeros(500, 2), torch.randn(30, 2) + 5])
    centers = fit_kmeans(points, 8)
    assert torch.isfinite(centers).all() and len(nearest(points, centers).unique()) > 3


def test_kmeans_holds_few_distances_at_once(monkeypatch):
    sizes = []
    monkeypatch.setattr(codebook, 'DISTANCES', 100)
    monkeypatch.setattr(codebook, 'nearest', lambda part, centers: sizes.append(len(part)) or nearest(part, centers))
    points = torch.randn(60, 3)
    centers = fit_kmeans(points, 7)
    assert max(sizes) * 7 <= 100
    monkeypatch.undo()
    torch.testing.assert_close(centers, fit_kmeans(points, 7))


def test_kmeans_is_decided_by_the_seed():
    points = torch.randn(300, 3)
    assert torch.equal(fit_kmeans(points, 7, seed=1), fit_kmeans(points, 7, seed=1))
    assert not torch.equal(fit_kmeans(points, 7, seed=1), fit_kmeans(points, 7, seed=2))


@pytest.mark.parametrize(
    ('points', 'message'),
    [(torch.zeros(3, 2), '4 centers of 3 points'), (torch.full((9, 2), float('nan')), 'NaN or infinity')],
    ids=['few', 'nan'],
)
def test_bad_points(points, message):
    with pytest.raises(ValueError, match=message):
        fit_kmeans(points, 4)


@pytest.fixture
def photos(tmp_path):
    for index in range(4):
        image = np.random.default_rng(index).integers(0, 255, (20 + index, 30, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f'{index}.png'), image)
    return sorted(tmp_path.glob('*.png'))


def test_file_round_trip(photos, tmp_path):
    centers = fit_codebook(photos, tmp_path / 'mine.npz', num_tokens=6, patch_size=4, img_size=(8, 16), window=6)
    again, patch_size, window = load_codebook(tmp_path / 'mine.npz')
    assert torch.equal(centers, again) and centers.shape == (6, 3 * 36) and (patch_size, window) == (4, 6)
    assert 0 <= centers.min() and centers.max() <= 1


def test_windows_of_files_are_drawn_evenly(photos):
    whole = torch.cat([windows_of(read_image(photo, (8, 16)), 4, 6)[0] for photo in photos])
    assert torch.equal(random_windows(photos, (8, 16), 4, 6, most=100, seed=0), whole)  # 4 x 8: there are no more
    counts = torch.zeros(32)
    for seed in range(200):
        some = random_windows(photos, (8, 16), 4, 6, most=10, seed=seed)
        rows = torch.cdist(some, whole).argmin(1)
        assert torch.equal(some, whole[rows]) and len(rows.unique()) == 10
        counts[rows] += 1
    assert counts.min() > 30 and counts.max() < 100  # 62.5 is expected


def test_only_what_is_drawn_is_read(photos, monkeypatch):
    read, most = [], []
    reader = codebook.read_image
    monkeypatch.setattr(codebook, 'read_image', lambda file, size: read.append(file) or reader(file, size))
    monkeypatch.setattr(codebook, 'fit_kmeans', lambda points, *args: most.append(len(points)) or points)
    fit_codebook([*photos] * 500, photos[0].with_name('a.npz'), 2, 4, (8, 16), max_patches=50)
    assert len(read) <= 50 and most == [50]


@pytest.mark.parametrize('name', ['text.png', 'half.jpg', 'half.png'])
def test_corrupt_files_are_named(photos, tmp_path, name):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b'no image' if name == 'text.png' else whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf'{name} is not an image that can be read'):
        fit_codebook([*photos, tmp_path / name], tmp_path / 'x.npz', 2, 4, (8, 16))


@pytest.mark.parametrize(
    ('patch', 'size'), [(0, (8, 16)), (-4, (8, 16)), (4, (0, 16)), (4, (8, -16)), (5, (8, 16))], ids=str
)
def test_patches_must_divide_the_images(photos, tmp_path, patch, size):
    with pytest.raises(ValueError, match=f'patch_size={patch}, .*each side must be a multiple of the patch size'):
        fit_codebook(photos, tmp_path / 'x.npz', 2, patch, size)


def test_colors_are_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / 'red.png'), np.full((8, 8, 3), (0, 0, 255), dtype=np.uint8))  # cv2 writes BGR
    centers = fit_codebook([tmp_path / 'red.png'], tmp_path / 'red.npz', 2, 4, (8, 8))
    assert centers.unflatten(1, (3, 16)).mean((0, 2)).tolist() == [1, 0, 0]


def test_shipped_codebook():
    centers, patch_size, window = load_codebook('clothing10-p8-k128')
    assert centers.shape == (128, 192) and patch_size == window == 8


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="one of .*'clothing10-p8-k128'"):
        load_codebook(tmp_path / 'none.npz')
    np.savez(tmp_path / 'other.npz', a=1)
    with pytest.raises(ValueError, match=r"no codebook: it holds \['a'\]"):
        load_codebook(tmp_path / 'other.npz')
    np.savez(tmp_path / 'wrong.npz', centers=np.zeros((4, 5)), patch_size=2, window=2)
    with pytest.raises(ValueError, match=r'shape \(4, 5\) for windows of 2 pixels'):
        load_codebook(tmp_path / 'wrong.npz')
    with pytest.raises(ValueError, match='no images'):
        fit_codebook([], tmp_path / 'x.npz')
