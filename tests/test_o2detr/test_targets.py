"""Boxes that training sees are right where width and height of a picture are scaled differently."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmrotate.structures import QuadriBoxes, RotatedBoxes, rbox2qbox

CONFIGS = (
    'o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav',
    'o2detr_refine-twostage_r50_2xb2-36e_dior',
    'o2detr_refine-twostage_r50_2xb2-72e_hrsc',
    'o2detr_refine-twostage_r50_2xb2-50e_dota',
)


@pytest.mark.parametrize('config', CONFIGS)
def test_targets_are_the_smallest_rectangles_around_the_scaled_corners(repo, random_boxes, scaled_rectangles, config):
    dataset = Config.fromfile(repo / f'configs/o2detr/{config}.py').train_dataloader.dataset
    pipeline = dataset.get('datasets', [dataset])[0].pipeline
    steps = [step for step in pipeline if step.type.rpartition('.')[2] in ('Resize', 'ConvertBoxType')]
    assert len(steps) == 2
    for step in steps:
        if step.type.endswith('Resize'):
            step.update(scale=(80, 160), keep_ratio=False)
    boxes = random_boxes(30, (160, 160))
    results = dict(img=np.zeros((160, 160, 3), np.uint8), gt_bboxes=QuadriBoxes(rbox2qbox(boxes)))
    found = Compose(steps)(results)['gt_bboxes']
    corners = [RotatedBoxes.rbox2corner(x) for x in (found.tensor, scaled_rectangles(boxes, (0.5, 1.0)))]
    assert torch.cdist(*corners).amin(2).max() < 0.1
