"""Images as people have them."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmplugins.prompt_tuning_inversion.pictures import fit, read_image, strip, to_image, to_tensor


@pytest.fixture
def save(tmp_path):
    def save(image: Image.Image, name: str, **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def pixels(path) -> np.ndarray:
    return np.asarray(read_image(path))


def test_rgb_comes_as_it_is(save):
    content = np.random.randint(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (pixels(save(Image.fromarray(content), 'a.png')) == content).all()


def test_turned_as_exif_says(save):
    image = Image.new('RGB', (6, 4), 'red')
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    path = save(image, 'a.jpg', exif=exif)
    assert read_image(path).size == (4, 6)


def test_cmyk_and_grey_and_palette_become_rgb(save):
    assert np.abs(pixels(save(Image.new('CMYK', (8, 8), (0, 255, 255, 0)), 'a.jpg'))[0, 0] - [255, 0, 0.0]).max() < 30
    assert pixels(save(Image.new('L', (2, 2), 77), 'b.png'))[0, 0].tolist() == [77] * 3
    assert pixels(save(Image.new('RGB', (2, 2), (1, 2, 200)).quantize(4), 'c.png'))[0, 0].tolist() == [1, 2, 200]
    assert pixels(save(Image.new('1', (2, 2), 1), 'd.png'))[0, 0].tolist() == [255] * 3


def test_sixteen_bits_are_scaled(save):
    deep = Image.fromarray(np.array([[0, 257 * 100], [65535, 257]], dtype=np.uint16))
    assert pixels(save(deep, 'a.png'))[..., 0].tolist() == [[0, 100], [255, 1]]


def test_transparency_is_laid_on_white(save):
    image = Image.new('RGBA', (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 255, 128))
    found = pixels(save(image, 'a.png'))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert np.abs(found[0, 1].astype(int) - [127, 127, 255]).max() <= 1
    palette = Image.new('P', (1, 1))
    palette.putpalette([9, 9, 9])
    assert pixels(save(palette, 'b.png', transparency=0))[0, 0].tolist() == [255] * 3


def test_unreadable_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='no image .*a.png'):
        read_image(tmp_path / 'a.png')
    (tmp_path / 'b.png').write_text('no picture')
    with pytest.raises(ValueError, match='b.png cannot be read as an image'):
        read_image(tmp_path / 'b.png')
    Image.fromarray(np.random.randint(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / 'c.png')
    (tmp_path / 'c.png').write_bytes((tmp_path / 'c.png').read_bytes()[:3000])
    with pytest.raises(ValueError, match='c.png cannot be read as an image'):
        read_image(tmp_path / 'c.png')


@pytest.mark.parametrize(
    ('size', 'resize', 'expected'),
    [((640, 427), 'shortest', (768, 512)), ((100, 300), 'shortest', (512, 1536)), ((640, 427), 'stretch', (512, 512)),
     ((640, 427), 'none', (640, 448)), ((10, 10), 'none', (64, 64)), ((512, 512), 'shortest', (512, 512))],
)  # fmt: skip
def test_sizes(size, resize, expected):
    assert fit(Image.new('RGB', size), 512, 64, resize).size == expected


def test_wrong_resize():
    with pytest.raises(ValueError, match="resize must be one of .* got 'longest'"):
        fit(Image.new('RGB', (8, 8)), 8, 8, 'longest')


def test_tensors_and_back():
    image = Image.fromarray(np.random.randint(0, 256, (6, 9, 3), dtype=np.uint8))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 6, 9)
    assert tensor.min() >= -1 and tensor.max() <= 1
    assert np.array_equal(np.asarray(to_image(tensor)), np.asarray(image))
    assert np.asarray(to_image(torch.full((3, 1, 1), 9.0))).max() == 255


def test_strip_shows_each_picture_enlarged():
    reds = [Image.new('RGB', (32, 32), color) for color in ('red', 'blue')]
    sheet = strip([('a', reds[0]), ('a long label that is wider', reds[1])], height=96)
    found = np.asarray(sheet).reshape(-1, 3)
    assert (found == [255, 0, 0]).all(1).sum() == (found == [0, 0, 255]).all(1).sum() == 96 * 96
