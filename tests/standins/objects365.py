"""Objects365 v2: names in the json start with the release, the files lie in patches below ``train`` and ``val``."""

from pathlib import Path

import numpy as np
from mmdet.datasets import Objects365V2Dataset

from .coco import SIZES, CocoFile
from .pictures import corners_of, paint, random_boxes, save

# As in the published files: v1 pictures in the patches up to 15, v2 pictures after; numbers are not contiguous.
PICTURES = {
    'train': ('v1/patch8/objects365_v1_00420917', 'v1/patch6/objects365_v1_00320532',
              'v2/patch16/objects365_v2_00908727', 'v2/patch41/objects365_v2_01937532'),
    'val': ('v1/patch0/objects365_v1_00056986', 'v2/patch19/objects365_v2_00974391'),
}  # fmt: skip
# Listed in the published json, but in no archive.
ABSENT = {'train': 'v1/patch6/objects365_v1_00320532', 'val': None}


def write(root: Path) -> None:
    """Write ``{train,val}/patch*/`` and ``annotations/zhiyuan_objv2_{train,val}.json``."""
    rng = np.random.default_rng(0)
    for part, names in PICTURES.items():
        file = CocoFile(dict(enumerate(Objects365V2Dataset.METAINFO['classes'], start=1)))
        for i, name in enumerate(names):
            number, size = int(name.rpartition('_')[2]), SIZES[i % len(SIZES)]
            boxes = random_boxes(rng, size, 3)
            file.add_image(number, f'images/{name}.jpg', size)
            for category, box in zip(rng.integers(1, 366, 3).tolist(), boxes, strict=True):
                file.add_box(number, category, box, isfake=0, iscrowd=int(category % 50 == 0), segmentation=[])
            if name != ABSENT[part]:
                patch = name.partition('/')[2]
                save(paint(rng, size, [corners_of(box) for box in boxes]), root / part / f'{patch}.jpg')
        file.write(root / f'annotations/zhiyuan_objv2_{part}.json')
