"""Masks that are derived from boxes."""

import json
import math

import numpy as np
import pytest

from mmplugins.cae.transfer.ellipses import EllipseMasks, LoadEllipseSegMap, draw_ellipses


def test_ellipse_is_inscribed_in_its_box():
    (mask,) = draw_ellipses([[10, 20, 50, 40]], 60, 80)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 10, 49)
    assert mask.sum() == pytest.approx(math.pi * 20 * 10, rel=0.02)
    assert mask[30, 30] and not mask[21, 11]


def test_part_outside_the_image_and_empty_boxes():
    masks = draw_ellipses([[-20, -20, 20, 20], [5, 5, 5, 9]], 30, 30)
    assert masks[0].sum() == pytest.approx(math.pi * 400 / 4, rel=0.05)
    assert masks[1].sum() == 0
    assert draw_ellipses(np.zeros((0, 4)), 5, 6).shape == (0, 5, 6)


def test_masks_for_mmdet():
    from mmdet.structures.bbox import HorizontalBoxes

    results = dict(gt_bboxes=HorizontalBoxes([[2.0, 2, 12, 12], [0, 0, 4, 4]]), img_shape=(20, 30))
    masks = EllipseMasks().transform(results)['gt_masks']
    assert (len(masks), masks.height, masks.width) == (2, 20, 30)
    assert np.array_equal(masks.masks, draw_ellipses([[2, 2, 12, 12], [0, 0, 4, 4]], 20, 30))


@pytest.fixture
def ann_file(tmp_path):
    content = dict(
        images=[dict(id=5, file_name='a.jpg', width=30, height=20), dict(id=6, file_name='b.jpg', width=4, height=3)],
        categories=[dict(id=2, name='small'), dict(id=9, name='large'), dict(id=11, name='other')],
        annotations=[
            dict(image_id=5, category_id=2, bbox=[8, 8, 4, 4]),
            dict(image_id=5, category_id=9, bbox=[2, 2, 16, 16]),
            dict(image_id=5, category_id=11, bbox=[0, 0, 30, 20]),
        ],
    )
    path = tmp_path / 'boxes.json'
    path.write_text(json.dumps(content))
    return str(path)


def test_segmentation_map_has_small_things_on_large_ones(ann_file):
    load = LoadEllipseSegMap(ann_file, ['large', 'small'])
    results = load.transform(dict(img_path='/somewhere/a.jpg', seg_fields=[]))
    found = results['gt_seg_map']
    large, small = draw_ellipses([[2, 2, 18, 18], [8, 8, 12, 12]], 20, 30)
    expected = np.where(small, 2, large)
    assert np.array_equal(found, expected) and results['seg_fields'] == ['gt_seg_map']
    assert load.transform(dict(img_path='b.jpg'))['gt_seg_map'].tolist() == [[0] * 4] * 3


def test_unknown_class_and_image_are_named(ann_file):
    with pytest.raises(ValueError, match=r"no category \['cow'\]; it has \['large', 'other', 'small'\]"):
        LoadEllipseSegMap(ann_file, ['cow']).transform(dict(img_path='a.jpg'))
    with pytest.raises(KeyError, match='c.jpg is not an image of'):
        LoadEllipseSegMap(ann_file, ['large']).transform(dict(img_path='c.jpg'))
