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


@pytest.fixture(autouse=True)
def mmdet_scope():
    """Bare type names mean mmdet's, as in a config of mmdet, and afterwards what they meant before."""
    from mmdet.utils import register_all_modules
    from mmengine.registry import DefaultScope

    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


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
        return dict(
            type='VocabCocoDataset',
            data_root=str(folder),
            ann_file='ann.json',
            data_prefix=dict(img=''),
            serialize_data=False,
        )  # the host collects garbage whenever it serializes: most of a test's time

    return write


@pytest.fixture
def warnings_logged(monkeypatch):
    """Return the list to which the plugin's warnings go, in place of mmengine's log."""
    from mmplugins.metr.data import coco_dataset, loading

    lines: list[str] = []
    for module in (coco_dataset, loading):
        monkeypatch.setattr(module, 'print_log', lambda text, **_: lines.append(text))
    return lines


# ---- Tiny detectors: the model tests ----------------------------------------------------------------------------

EMBEDDED_NAMES = ('cat', 'dog', 'bird', 'traffic light', 'bus', 'horse', 'sheep', 'zebra')
TINY_VOCABULARY = dict(datasets=dict(pets=['cat', 'dog', 'bird'], streets=['Dog', 'traffic_light']))
"""cat 0, dog 1, bird 2, traffic_light 3; ``pets`` annotates rows 0, 1, 2 and ``streets`` rows 1, 3."""


@pytest.fixture(scope='session')
def hash_embeddings(tmp_path_factory):
    """Path of a file of embeddings of eight names, by the hash backend: no language model."""
    from mmplugins.metr.text.backends import encode_texts
    from mmplugins.metr.text.embeddings import NameEmbeddings, save_embeddings

    path = tmp_path_factory.mktemp('embeddings') / 'hash.npz'
    save_embeddings(path, NameEmbeddings(EMBEDDED_NAMES, encode_texts('hash', EMBEDDED_NAMES), 'hash', '{name}'))
    return str(path)


@pytest.fixture
def detector_cfg(hash_embeddings):
    """Return a function that gives the config of a METR (or DeformableMETR) with D=32, K=3, Q=5, V=4.

    Keywords of the function replace values of the config; its nested keys are written with dots.
    """

    def make(kind: str = 'METR', **changes) -> dict:
        attention = dict(embed_dims=32, num_heads=4, dropout=0.0)
        deformable = dict(attention, num_levels=3, num_points=2)
        ffn = dict(embed_dims=32, feedforward_channels=64, ffn_drop=0.0)
        cfg = dict(
            type=kind,
            vocabulary=TINY_VOCABULARY,
            text_bank=dict(embeddings=hash_embeddings),
            cem=dict(num_blocks=2, num_heads=4, feedforward_channels=64),
            num_categories=3,
            num_queries=5,
            data_preprocessor=dict(
                type='DetDataPreprocessor', mean=[128.0] * 3, std=[64.0] * 3, bgr_to_rgb=True, pad_size_divisor=1
            ),
            backbone=dict(
                type='ResNet',
                depth=18,
                base_channels=8,
                num_stages=4,
                out_indices=(1, 2, 3),
                norm_cfg=dict(type='GN', num_groups=4),
            ),
            neck=dict(
                type='ChannelMapper',
                in_channels=[16, 32, 64],
                kernel_size=1,
                out_channels=32,
                act_cfg=None,
                norm_cfg=dict(type='GN', num_groups=4),
                num_outs=3,
            ),
            num_feature_levels=3,
            encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=dict(deformable), ffn_cfg=dict(ffn))),
            decoder=dict(
                num_layers=2,
                return_intermediate=True,
                layer_cfg=dict(self_attn_cfg=dict(attention), cross_attn_cfg=dict(deformable), ffn_cfg=dict(ffn)),
                post_norm_cfg=None,
            ),
            positional_encoding=dict(num_feats=16, normalize=True, offset=0.0, temperature=20),
            bbox_head=dict(
                type='METRHead',
                embed_dims=32,
                loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
                loss_bbox=dict(type='L1Loss', loss_weight=5.0),
                loss_iou=dict(type='GIoULoss', loss_weight=2.0),
            ),
            test_cfg=dict(max_per_img=10),
        )
        if kind == 'METR':
            cfg['dn_cfg'] = dict(group_cfg=dict(dynamic=True, num_dn_queries=8))
        for key, value in changes.items():
            *parents, last = key.split('.')
            part = cfg
            for parent in parents:
                part = part[parent]
            part[last] = value
        return cfg

    return make


@pytest.fixture
def build_detector(detector_cfg):
    """Return a function that builds a detector of ``detector_cfg`` in training mode.

    Its parameters are moved off their start values: box branches that are zero, equal norms and equal biases would
    hide a mistake.
    """
    import torch
    from mmdet.registry import MODELS
    from mmengine.logging import MMLogger

    import mmplugins.metr  # noqa: F401

    def build(kind: str = 'METR', seed: int = 0, **changes):
        torch.manual_seed(seed)
        model = MODELS.build(detector_cfg(kind, **changes))
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel('WARNING')  # else three lines for every parameter, in the report of every failed test
        model.init_weights()
        logger.setLevel(level)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model.train()

    return build


@pytest.fixture(scope='session')
def make_batch():
    """Return a function that gives a batch as the data loader does; ``model.data_preprocessor`` makes it input.

    Args of the function:
        sizes: ``(height, width)`` of the images.
        boxes: One list of ``(label, (x1, y1, x2, y2))`` an image; None for samples without ``gt_instances``.
        datasets: One ``dataset_name`` an image, or None for an image that names none.
    """
    import torch
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    def make(sizes: list, boxes: list | None = None, datasets: list | None = None) -> dict:
        generator = torch.Generator().manual_seed(len(sizes))
        inputs, samples = [], []
        for i, (height, width) in enumerate(sizes):
            inputs.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator))
            meta = dict(
                img_path=f'{i}.jpg',
                img_shape=(height, width),
                ori_shape=(2 * height, 4 * width),
                scale_factor=(0.25, 0.5),  # (w, h)
            )
            if datasets is not None and datasets[i] is not None:
                meta['dataset_name'] = datasets[i]
            sample = DetDataSample(metainfo=meta)
            if boxes is not None:
                sample.gt_instances = InstanceData(
                    bboxes=torch.tensor([box for _, box in boxes[i]], dtype=torch.float).reshape(-1, 4),
                    labels=torch.tensor([label for label, _ in boxes[i]], dtype=torch.long),
                )
            samples.append(sample)
        return dict(inputs=inputs, data_samples=samples)

    return make


@pytest.fixture
def mixed_batch(make_batch):
    """Three images of three sizes and both data sets, 3, 2 and 1 boxes; all boxes are of annotated names."""
    return make_batch(
        sizes=[(64, 48), (48, 64), (40, 56)],
        boxes=[
            [(0, (4, 6, 20, 30)), (0, (20, 20, 44, 60)), (2, (2, 30, 18, 50))],
            [(1, (10, 4, 50, 40)), (3, (30, 10, 60, 44))],
            [(1, (8, 8, 40, 32))],
        ],
        datasets=['pets', 'streets', 'pets'],
    )
