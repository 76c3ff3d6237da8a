"""PRAETTAModel: views of one image."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmplugins.prae import Calibration, PRAETTAModel, save


def views_of(num=3) -> list[DetDataSample]:
    samples = []
    for flip in (False, True):
        box = torch.tensor([[10.0, 10, 30, 40], [60, 20, 90, 50]])
        if flip:
            box = torch.stack([100 - box[:, 2], box[:, 1], 100 - box[:, 0], box[:, 3]], dim=1)
        meta = dict(ori_shape=(80, 100), flip=flip, flip_direction='horizontal')
        sample = DetDataSample(metainfo=meta)
        sample.pred_instances = InstanceData(bboxes=box, scores=torch.tensor([0.8, 0.4]), labels=torch.tensor([0, 1]))
        samples.append(sample)
    return samples


def test_views_are_mirrored_back_and_fused():
    model = PRAETTAModel(fusion=dict(head='wbf'), module=dict(type='EnsembleDetector', detectors=[]) and TinyModule())
    merged = model.merge_preds([views_of()])[0].pred_instances
    torch.testing.assert_close(merged.bboxes, torch.tensor([[10.0, 10, 30, 40], [60, 20, 90, 50]]))
    torch.testing.assert_close(merged.scores, torch.tensor([0.8, 0.4]))


def test_views_unfused_say_whose_boxes_they_are():
    merged = PRAETTAModel(module=TinyModule()).merge_preds([views_of()])[0].pred_instances
    assert merged.detector.tolist() == [0, 0, 1, 1]


def test_views_need_as_many_curves(tmp_path):
    save(Calibration.identity(['v0', 'v1', 'v2'], ['x', 'y']), tmp_path / 'calib.json')
    model = PRAETTAModel(calibration=str(tmp_path / 'calib.json'), fusion={}, module=TinyModule())
    with pytest.raises(ValueError, match='2 views, but the calibration has curves for'):
        model.merge_preds([views_of()])


class TinyModule(torch.nn.Module):
    """What BaseTTAModel asks of a model."""

    def test_step(self, data):
        return data
