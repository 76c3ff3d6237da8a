"""PRAEFusion: mmdet's and mmrotate's predictions go in and come out."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmplugins.prae import Calibration, Dataset, Detections, GroundTruth, PRAEFusion, fit, fit_config, fuse_config
from mmplugins.prae.instances import joined


def test_masks_are_kept_by_nms_and_vote_in_wbf():
    bitmap = torch.zeros(2, 4, 6, dtype=torch.bool)
    bitmap[0, 0], bitmap[1, 1] = True, True
    view = InstanceData(bboxes=torch.tensor([[0.0, 0, 9, 9], [20, 20, 40, 40]]), scores=torch.tensor([0.3, 0.6]),
                        labels=torch.tensor([0, 0]), masks=bitmap)  # fmt: skip
    bare = InstanceData(bboxes=view.bboxes, scores=view.scores + 0.1, labels=view.labels)
    calib = Calibration.identity('ab', ['x'])
    for head in ('nms', 'wbf'):
        out = PRAEFusion(head=head, with_masks=True)([[view], [view]], calib, [(4, 6)])[0]
        assert out.masks.tolist() == bitmap.flip(0).tolist()
        assert out.scores.tolist() == pytest.approx([0.6, 0.3], abs=1e-6)
    # A member without masks: Mask R-CNN beside FCOS, as in the authors' README.
    assert PRAEFusion(with_masks=True)([[bare], [view]], calib, [(4, 6)])[0].masks.any((1, 2)).all()
    assert PRAEFusion(head='nms', with_masks=True)([[bare], [view]], calib, [(4, 6)])[0].masks.shape == (2, 4, 6)
    assert not PRAEFusion(head='nms', with_masks=True)([[bare], [view]], calib, [(4, 6)])[0].masks.any()
    assert 'masks' not in PRAEFusion()([[view], [view]], calib, [(4, 6)])[0]
    assert PRAEFusion(with_masks=True)([[view[:0]], [view[:0]]], calib, [(4, 6)])[0].masks.shape == (0, 4, 6)


@pytest.mark.parametrize('head', ['wbf', 'nms'])
def test_boxes_of_mmrotate_go_in_and_come_out(head):
    structures = pytest.importorskip('mmrotate.structures.bbox')
    box = torch.tensor([[50.0, 40, 30, 10, 0.3], [90, 90, 20, 20, 0.1]])
    scores, labels = torch.tensor([0.8, 0.4]), torch.tensor([0, 1])
    view = InstanceData(bboxes=structures.RotatedBoxes(box), scores=scores, labels=labels)
    calib = Calibration.identity('ab', ['x', 'y'])
    out = PRAEFusion(head=head)([[view], [view]], calib, [(100, 100)])[0]
    assert isinstance(out.bboxes, structures.RotatedBoxes)
    torch.testing.assert_close(out.bboxes.tensor, box)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_comes_out_in_float32(dtype):
    view = InstanceData(bboxes=torch.tensor([[1001.0, 0, 1009, 9]]).to(dtype), scores=torch.tensor([0.5], dtype=dtype),
                        labels=torch.tensor([0]))  # fmt: skip
    out = PRAEFusion()([[view], [view]], Calibration.identity('ab', ['x']), [(2000, 2000)])[0]
    assert out.bboxes.dtype == out.scores.dtype == torch.float32
    torch.testing.assert_close(out.bboxes, view.bboxes.float())


def test_settings_travel_with_the_calibration():
    tables = {name: Detections.make([0, 1], [0, 0], [0.9, 0.3], [[0, 0, 9, 9]] * 2) for name in 'ab'}
    flags = np.zeros(2, dtype=bool)
    data = Dataset((0, 1), ('', ''), np.zeros((2, 2)), ('x',), (1,))
    gt = GroundTruth(data, np.array([0, 1]), np.zeros(2, dtype=int), tables['a'].box, flags, flags)
    official = fit(tables, gt, fit_config('official'))
    assert official.cfg.preset == 'official'
    assert PRAEFusion().config(official) == fuse_config('official')
    assert PRAEFusion(iou_thr=0.6).config(official) == fuse_config('official', iou_thr=0.6)
    assert PRAEFusion(preset='robust').config(official) == fuse_config('robust')


def test_joined_keeps_every_box():
    view = InstanceData(bboxes=torch.zeros(3, 4), scores=torch.zeros(3), labels=torch.zeros(3, dtype=torch.long))
    assert len(joined([view, view[:0], view])) == 6
