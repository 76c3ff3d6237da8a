"""PRAE on CUDA beside the CPU: a member's training, and the boxes of an ensemble."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import mmplugins.prae  # noqa: F401

MEMBERS = ('fcos', 'retinanet')


@pytest.fixture
def configs(repo):
    """Return the configs of two detectors of one stage."""
    init_default_scope('mmdet')
    return [repo / f'configs/prae/{name}_r18-w16_1xb8-12e_bccd.py' for name in MEMBERS]


@pytest.fixture
def batch():
    """Return a function that gives two images, with boxes."""

    def make() -> dict:
        meta = dict(img_shape=(96, 128), ori_shape=(192, 256), scale_factor=(0.5, 0.5), pad_shape=(96, 128))
        samples = []
        for number in range(2):
            sample = DetDataSample(metainfo=dict(meta, img_id=number, img_path=f'{number}.jpg'))
            boxes = torch.tensor([[10.0, 12, 60, 50], [50, 40, 100, 90]])
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))
            samples.append(sample)
        images = torch.randint(256, (2, 3, 96, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        return dict(inputs=list(images), data_samples=samples)

    return make


@pytest.fixture
def losses(batch):
    """Return the losses of a model on the batch."""
    return lambda model, device: model(**model.data_preprocessor(batch(), training=True), mode='loss')


def test_float32_is_that_of_the_cpu(parity, device, configs, losses):
    parity.check_step(MODELS.build(Config.fromfile(configs[0]).model), losses, device)


def test_half_precision_is_finite(parity, device, configs, losses):
    parity.check_half(MODELS.build(Config.fromfile(configs[0]).model), losses, device)


@pytest.mark.parametrize('sequential', [False, True])
def test_boxes_of_an_ensemble_are_those_of_the_cpu(device, configs, batch, sequential):
    detectors = [dict(name=name, config=str(path)) for name, path in zip(MEMBERS, configs, strict=True)]
    options = dict(share_inputs=True, sequential_gpu=sequential)  # the images are made up
    model = MODELS.build(dict(type='EnsembleDetector', detectors=detectors, fusion={}, **options))
    model.load_state_dict(model.state_dict())  # it has weights, and asks for no files
    model.eval()
    expected, found = (model.to(place).test_step(batch()) for place in ('cpu', device))
    for mine, theirs in zip(found, expected, strict=True):
        assert len(theirs.pred_instances)
        torch.testing.assert_close(
            mine.pred_instances.scores.cpu(), theirs.pred_instances.scores.cpu(), rtol=1e-3, atol=1e-5
        )
