"""The crop in two sizes: the authors' to the pixel, on the same random numbers."""

import math
import random

import numpy as np
import pytest
import torchvision.transforms.functional as TF
from PIL import Image
from torchvision.transforms import InterpolationMode

from mmplugins.cae.cropping import TwoViewRandomResizedCrop


def authors_views(image, size, second_size, scale, chance):
    """What timm, BEiT and the authors do: a box of Python's random, torchvision's `resized_crop` of a PIL image."""
    width, height = image.size
    box = None
    for _ in range(10):
        area = chance.uniform(*scale) * width * height
        aspect = math.exp(chance.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
        if w <= width and h <= height:
            box = chance.randint(0, height - h), chance.randint(0, width - w), h, w
            break
    if box is None:
        w, h = width, height
        if width / height < 3 / 4:
            h = int(round(w / (3 / 4)))
        elif width / height > 4 / 3:
            w = int(round(h * (4 / 3)))
        box = (height - h) // 2, (width - w) // 2, h, w
    modes = (size, InterpolationMode.BICUBIC), (second_size, InterpolationMode.LANCZOS)
    return [np.asarray(TF.resized_crop(image, *box, list(one), mode)) for one, mode in modes]


@pytest.fixture
def same_chance(monkeypatch):
    """Give numpy's functions, as the transform calls them, the numbers of Python's random."""
    chance = random.Random(0)
    monkeypatch.setattr(np.random, 'uniform', chance.uniform)
    monkeypatch.setattr(np.random, 'randint', lambda high: chance.randint(0, high - 1))
    return random.Random(0)


@pytest.mark.parametrize('shape', [(90, 120, 3), (60, 200, 3), (75, 50)], ids=str)  # of the second often no box fits
def test_equals_the_authors_to_the_pixel(same_chance, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    crop = TwoViewRandomResizedCrop((32, 48), (16, 24), scale=(0.3, 1.0))
    for _ in range(20):
        views = crop.transform(dict(img=image))['img']
        expected = authors_views(Image.fromarray(image), (32, 48), (16, 24), (0.3, 1.0), same_chance)
        assert [view.shape[:2] for view in views] == [(32, 48), (16, 24)]
        for view, other in zip(views, expected, strict=True):
            assert np.array_equal(view, other)


def test_last_row_and_column_are_seen():
    crop = TwoViewRandomResizedCrop(8, 8, scale=(0.2, 0.6))
    np.random.seed(0)
    boxes = np.array([crop.draw_box(30, 40) for _ in range(500)])
    assert (boxes[:, 0] + boxes[:, 2]).max() == 30 and (boxes[:, 1] + boxes[:, 3]).max() == 40
    assert boxes[:, :2].min(0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ('kwargs', 'text'),
    [
        (dict(interpolation='area'), "interpolation 'area'; one of"),
        (dict(scale=(1.0, 0.08)), 'least, most'),
        (dict(scale=(0.5, 2.0)), 'at most 1'),
    ],
    ids=str,
)
def test_bad_arguments(kwargs, text):
    with pytest.raises(ValueError, match=text):
        TwoViewRandomResizedCrop(8, 8, **kwargs)
