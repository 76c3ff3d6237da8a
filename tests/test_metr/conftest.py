"""Fixtures of the METR tests: the BCCD sample sets, and a writer of small COCO sets of any content."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('mmdet')

BCCD = Path(__file__).parents[1] / 'data' / 'bccd'
VOCABULARY = dict(
    datasets=dict(
        bccd_cells=['red blood cell', 'white blood cell'],
        bccd_platelets=['White_Blood_Cell', 'platelets'],
    )
)


@pytest.fixture(scope='session')
def bccd() -> Path:
    """Folder of the BCCD sample sets."""
    return BCCD


@pytest.fixture
def bccd_vocabulary() -> dict:
    """Arguments of the vocabulary of the two BCCD sets: red blood cell 0, white blood cell 1, platelets 2."""
    return VOCABULARY


@pytest.fixture(scope='session')
def pipeline():
    """Return a function that gives a detection pipeline that ends in packed samples."""

    def make(loader: str = 'LoadImageFromFile', **loader_kwargs) -> list[dict]:
        return [
            dict(type=loader, **loader_kwargs),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(96, 96), keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'flip')),
        ]

    return make


@pytest.fixture(scope='session')
def bccd_datasets(bccd):
    """Return a function that gives the configs of the two BCCD sets, with classes in another order than the files."""

    def make(split: str = 'val', test_mode: bool = False, **kwargs) -> dict[str, dict]:
        return {
            f'bccd_{name}': dict(
                type='VocabCocoDataset',
                data_root=str(bccd),
                ann_file=f'annotations/{name}_{split}.json',
                data_prefix=dict(img=f'{split}/'),
                metainfo=dict(classes=VOCABULARY['datasets'][f'bccd_{name}']),
                test_mode=test_mode,
                **kwargs,
            )
            for name in ('cells', 'platelets')
        }

    return make


@pytest.fixture
def write_coco(tmp_path):
    """Return a function that writes a COCO set and returns the arguments of a dataset over it.

    Args of the function:
        name: Of the files.
        categories: Names, with ids 1, 2, … in this order.
        images: One list of ``(category, [x, y, w, h])`` per image of 64x48 (width x height).
        edit: Called with the COCO dict before it is written.
    """

    def write(name: str, categories: list[str], images: list[list], edit=None) -> dict:
        folder = tmp_path / name
        folder.mkdir()
        data = dict(images=[], annotations=[], categories=[])
        data['categories'] = [dict(id=i, name=category) for i, category in enumerate(categories, start=1)]
        for number, boxes in enumerate(images, start=1):
            pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f'{number}.jpg'), pixels)
            data['images'].append(dict(id=number, file_name=f'{number}.jpg', width=64, height=48))
            for category, box in boxes:
                data['annotations'].append(
                    dict(
                        id=len(data['annotations']) + 1,
                        image_id=number,
                        category_id=categories.index(category) + 1,
                        bbox=box,
                        area=box[2] * box[3],
                        iscrowd=0,
                    )
                )
        if edit is not None:
            edit(data)
        (folder / 'ann.json').write_text(json.dumps(data))
        return dict(type='VocabCocoDataset', data_root=str(folder), ann_file='ann.json', data_prefix=dict(img=''))

    return write


@pytest.fixture
def warnings_logged(monkeypatch):
    """Return the list to which the plugin's warnings go, in place of mmengine's log."""
    from mmplugins.metr import datasets, loading

    lines: list[str] = []
    for module in (datasets, loading):
        monkeypatch.setattr(module, 'print_log', lambda text, **_: lines.append(text))
    return lines
