import io

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmplugins.metr.data.loading import GRACE, LoadImageOrSkip, is_truncated

IMAGE_DESCRIPTION = 0x010E  # of EXIF; any tag that holds bytes will do


@pytest.fixture
def jpeg(bccd) -> bytes:
    return (bccd / 'val' / 'BloodImage_00007.jpg').read_bytes()


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file and returns the input of a loader."""

    def make(content: bytes, name: str = 'image.jpg') -> dict:
        (tmp_path / name).write_bytes(content)
        return dict(img_path=str(tmp_path / name))

    return make


def bad_inputs(jpeg: bytes) -> dict[str, bytes]:
    return dict(empty=b'', text=b'not an image', cut=jpeg[: len(jpeg) // 2], no_end=jpeg[:-2])


@pytest.mark.parametrize('to_float32', [False, True])
def test_a_good_image_is_loaded_as_by_the_host(jpeg, write, to_float32):
    found = LoadImageOrSkip(to_float32=to_float32)(write(jpeg))
    expected = LoadImageFromFile(to_float32=to_float32)(write(jpeg))
    assert found.keys() == expected.keys()
    assert found['img'].dtype == expected['img'].dtype
    assert (found['img'] == expected['img']).all()
    assert found['img_shape'] == found['ori_shape'] == (240, 320)


@pytest.mark.parametrize('size', [100, 50_000], ids=['padding', 'film'])
def test_bytes_after_the_end_marker_are_fine(size, jpeg, write):
    assert LoadImageOrSkip(max_bad=0)(write(jpeg + bytes(size))) is not None


@pytest.mark.parametrize(
    ('format', 'options'),
    [('JPEG', {}), ('JPEG', dict(progressive=True)), ('PNG', {})],
    ids=['jpeg', 'progressive', 'png'],
)
def test_is_truncated(format, options):
    """Of a picture with a thumbnail, whose end marker is in the file too, before the pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = encoded(pixels[::4, ::4], 'JPEG')
    whole = encoded(pixels, format, exif=exif, **options)
    assert whole.count(b'\xff\xd9') == (2 if format == 'JPEG' else 1)
    assert not is_truncated(whole)
    assert not is_truncated(whole + bytes(50_000))
    for length in range(20, len(whole) - 8, 97):
        assert is_truncated(whole[:length]), length


def encoded(pixels: np.ndarray, format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def test_a_marker_may_have_fill_bytes(jpeg):
    """ITU T.81, B.1.1.2: "any marker may optionally be preceded by any number of fill bytes"."""
    filled = jpeg[:2] + b'\xff\xff' + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(filled, np.uint8), 1) is not None
    assert not is_truncated(filled)
    assert is_truncated(filled[:-2])


@pytest.mark.parametrize('kind', ['empty', 'text', 'cut', 'no_end', 'missing'])
def test_a_bad_file_is_skipped_and_logged_once(kind, jpeg, write, warnings_logged):
    results = dict(img_path='no/such.jpg') if kind == 'missing' else write(bad_inputs(jpeg)[kind])
    loader = LoadImageOrSkip()
    assert loader(dict(results)) is None
    assert loader(dict(results)) is None
    assert len(warnings_logged) == 1
    assert results['img_path'] in warnings_logged[0]
    assert '1 bad of 1' in warnings_logged[0]


@pytest.mark.parametrize('kind', ['empty', 'text', 'cut'])
def test_in_evaluation_the_first_bad_file_is_an_error_that_names_it(kind, jpeg, write):
    results = write(bad_inputs(jpeg)[kind], 'broken.jpg')
    with pytest.raises(OSError, match='broken.jpg'):
        LoadImageOrSkip(max_bad=0)(results)


def test_too_many_bad_files_are_an_error(jpeg, write, warnings_logged):
    """Of 100 files, bad ones from number 90 on: 10 of 100 is not above 0.1, the eleventh is."""
    loader = LoadImageOrSkip(max_bad=0.1)
    for _ in range(90):
        loader(write(jpeg))
    for number in range(GRACE):
        assert loader(dict(img_path=f'no/{number}.jpg')) is None
    with pytest.raises(OSError, match=r'11 of 101 images.*data_prefix'):
        loader(dict(img_path='no/last.jpg'))
    assert len(warnings_logged) == 11


def test_few_bad_files_at_the_start_are_no_error(warnings_logged):
    loader = LoadImageOrSkip()
    assert [loader(dict(img_path=f'no/{i}.jpg')) for i in range(GRACE - 1)] == [None] * (GRACE - 1)


@pytest.mark.parametrize('max_bad', [-0.1, 1])
def test_max_bad_out_of_range(max_bad):
    with pytest.raises(ValueError, match='max_bad'):
        LoadImageOrSkip(max_bad=max_bad)


def test_repr_shows_max_bad():
    assert repr(LoadImageOrSkip(max_bad=0.2)).endswith('max_bad=0.2)')
