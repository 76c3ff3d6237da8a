"""Masks from boxes of round things, so that the small configs can train masks on sets that have boxes only.

**Derived, not annotated**: each box becomes the ellipse inscribed in it. For blood cells that is close; it is meant
for trying a segmentation config on ``tests/data/bccd``, never for quoting mask or IoU numbers of a paper.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS


def draw_ellipses(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Ellipses inscribed in boxes.

    Args:
        boxes: Array (N, 4), corners x1, y1, x2, y2 in pixels.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        Array (N, height, width) of 0 and 1, uint8; a pixel belongs to the ellipse if its center does.
    """
    x1, y1, x2, y2 = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T[..., None, None]
    y, x = np.mgrid[:height, :width] + 0.5
    tiny = 1e-6  # a box without area covers nothing
    across = (x - (x1 + x2) / 2) / np.maximum((x2 - x1) / 2, tiny)
    along = (y - (y1 + y2) / 2) / np.maximum((y2 - y1) / 2, tiny)
    return (across**2 + along**2 <= 1).astype(np.uint8)


@TRANSFORMS.register_module()
class EllipseMasks(BaseTransform):
    """Add ``gt_masks`` (mmdet) to what ``LoadAnnotations(with_bbox=True)`` has read: an ellipse in each box.

    Required keys: ``gt_bboxes`` (N, 4), ``img_shape``. Added: ``gt_masks``, N bitmaps of the image's size.
    """

    def transform(self, results: dict) -> dict:
        """Add the masks."""
        from mmdet.structures.mask import BitmapMasks

        boxes = results['gt_bboxes']
        boxes = boxes.tensor.numpy() if hasattr(boxes, 'tensor') else boxes
        height, width = results['img_shape'][:2]
        results['gt_masks'] = BitmapMasks(draw_ellipses(boxes, height, width), height, width)
        return results


@TRANSFORMS.register_module()
class LoadEllipseSegMap(BaseTransform):
    """Make ``gt_seg_map`` (mmseg) of the boxes in a COCO-style file: an ellipse in each box, small over large.

    Args:
        ann_file: The file. Images are found by the name of their file.
        classes: Names of the categories, in the order of their labels; label 0 is the background.

    Required keys: ``img_path``. Added: ``gt_seg_map`` (H, W) in the size of the file's image, uint8; ``seg_fields``.

    Raises:
        ValueError: A class is not a category of the file.
        KeyError: An image is not in the file.
    """

    def __init__(self, ann_file: str, classes: list[str] | tuple[str, ...]) -> None:
        self.ann_file = ann_file
        self.classes = tuple(classes)

    def transform(self, results: dict) -> dict:
        """Draw the map."""
        images = read_boxes(self.ann_file, self.classes)
        name = Path(results['img_path']).name
        if name not in images:
            raise KeyError(f'{name} is not an image of {self.ann_file}')
        height, width, boxes, labels = images[name]
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        seg_map = np.zeros((height, width), dtype=np.uint8)
        for i in np.argsort(-area, kind='stable'):
            seg_map[draw_ellipses(boxes[i], height, width)[0] > 0] = labels[i]
        results['gt_seg_map'] = seg_map
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results


@lru_cache(maxsize=4)
def read_boxes(ann_file: str, classes: tuple[str, ...]) -> dict[str, tuple[int, int, np.ndarray, np.ndarray]]:
    """File name -> height, width, boxes (N, 4) as corners, labels (N,) from 1 on, of a COCO-style file."""
    content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
    labels = {category['id']: category['name'] for category in content['categories']}
    missing = set(classes) - set(labels.values())
    if missing:
        raise ValueError(f'{ann_file} has no category {sorted(missing)}; it has {sorted(labels.values())}')
    found: dict[int, list] = {image['id']: [] for image in content['images']}
    for one in content['annotations']:
        if labels[one['category_id']] in classes:
            x, y, w, h = one['bbox']
            found[one['image_id']].append((x, y, x + w, y + h, classes.index(labels[one['category_id']]) + 1))
    rows = {key: np.array(value, dtype=np.float64).reshape(-1, 5) for key, value in found.items()}
    return {
        image['file_name']: (image['height'], image['width'], rows[image['id']][:, :4], rows[image['id']][:, 4])
        for image in content['images']
    }
