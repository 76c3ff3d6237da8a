"""What the README shows, run as it stands there."""

import re
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS, TRANSFORMS

import mmplugins.cae  # noqa: F401

README = (Path(__file__).resolve().parents[2] / 'projects/cae/README.md').read_text(encoding='utf-8')


def example(number: int) -> dict:
    """Names that a Python block of the README defines."""
    names: dict = {}
    exec(re.findall(r'^```python\n(.*?)^```', README, re.M | re.S)[number], names)  # noqa: S102
    return names


def test_images_that_are_not_square(monkeypatch):
    cfg = example(0)
    parts = [dict(part) for part in cfg['train_pipeline'][1:]]
    model = cfg['model']
    model['backbone']['arch'] = dict(embed_dims=48, num_layers=1, num_heads=4, feedforward_channels=48)
    model['neck'].update(embed_dims=48, num_heads=4, num_classes=16)
    teacher = dict(input_resolution=224, patch_size=16, width=64, layers=1, heads=1, output_dim=16)
    model['target_generator'].update(arch=teacher, init_cfg=None)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(model)
        pipeline = [TRANSFORMS.build(part) for part in parts]
    image = np.random.default_rng(0).integers(0, 255, (300, 500, 3), dtype=np.uint8)
    batch = []
    for _ in range(2):
        results = dict(img=image)
        for step in pipeline:
            results = step(results)
        batch.append(results)
    views = [torch.stack([one['inputs'][view] for one in batch]) for view in (0, 1)]
    data = model.data_preprocessor(dict(inputs=views, data_samples=[one['data_samples'] for one in batch]), True)
    assert data['inputs'][0].shape == (2, 3, 192, 256)
    assert torch.isfinite(model.loss(**data)['loss_latent'])


def test_encoders_of_the_second_example_build():
    cfg = example(1)
    parts = [cfg['classification'], cfg['segmentation'], cfg['detection']['backbone'], cfg['detection']['neck'][0]]
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        for part in parts:
            assert MODELS.build(part) is not None
