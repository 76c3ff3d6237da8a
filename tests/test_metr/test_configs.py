"""Each config of the plugin builds its model, takes a training step and predicts: the network whole, images small."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

CONFIGS = sorted((Path(__file__).parents[2] / 'configs/metr').glob('*.py'))


def batch(num_classes: int, dataset_name: str | None) -> dict:
    """Two small images of different shapes with a box of the first and of the last class."""
    inputs, samples = [], []
    for height, width in ((96, 128), (128, 96)):
        inputs.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
        meta = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
        if dataset_name is not None:
            meta['dataset_name'] = dataset_name
        sample = DetDataSample(metainfo=meta)
        boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0], [20.0, 30.0, 90.0, 90.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, num_classes - 1]))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_step_and_prediction(path):
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None  # weights of a URL
    if cfg.model.type == 'DINO':
        cfg.model.num_queries = 100  # the host's DINO fails with fewer tokens than queries
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    vocabulary = getattr(model, 'vocabulary', None)
    name = None if vocabulary is None else next(iter(vocabulary.datasets))
    num_classes = model.bbox_head.num_classes if vocabulary is None else max(vocabulary.rows(name)) + 1
    data = model.data_preprocessor(batch(num_classes, name), True)
    loss, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
    loss.backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert loss.isfinite() and not without

    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(batch(num_classes, name), False)
        found = model.predict(data['inputs'], data['data_samples'])
    for sample in found:
        assert len(sample.pred_instances) == cfg.model.test_cfg.max_per_img
        assert sample.pred_instances.scores.isfinite().all()
        assert sample.pred_instances.labels.max() < (num_classes if vocabulary is None else len(vocabulary))
