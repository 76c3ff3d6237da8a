"""The small experiment: its images, its measures, and how claims are judged. It is not run here."""

import math

import cv2
import numpy as np
import pytest
import torch


@pytest.fixture
def parts(monkeypatch, repo):
    monkeypatch.syspath_prepend(str(repo / 'tools/claims'))
    from o2detr_parts import arms, claims, data, measure

    return dict(arms=arms, claims=claims, data=data, measure=measure)


def test_ink_lies_in_the_boxes(parts, repo):
    painter = parts['data'].Painter('val', repo / 'tests/data/clothing10')
    scan = painter.digits.images[0]
    for place in [
        ((60.0, 50.0), (60.0, 20.0), 0.0),
        ((64.0, 64.0), (50.0, 18.0), 30.0),
        ((70.0, 60.0), (40.0, 16.0), 120.0),
    ]:
        image = np.full((128, 128, 3), 255, np.float32)
        painter.paste(image, scan, place)
        ink = np.argwhere(image[..., 0] < 200)[:, ::-1].astype(np.float32)
        (center, (w, h), angle) = cv2.minAreaRect(ink)
        assert np.abs(np.array(center) - place[0]).max() < 3
        assert max(w, h) == pytest.approx(place[1][0], rel=0.2) and min(w, h) == pytest.approx(place[1][1], rel=0.3)
        long = angle if w > h else angle + 90
        assert min((long - place[2]) % 180, (place[2] - long) % 180) < 6


def test_parts_share_no_scan_and_boxes_do_not_overlap(parts, repo):
    train, val = (parts['data'].Painter(part, repo / 'tests/data/clothing10') for part in ('train', 'val'))
    assert not set(train.chosen) & set(val.chosen) and not set(train.photos) & set(val.photos)
    image, lines = train.paint()
    boxes = [np.array(line.split()[:8], np.float32).reshape(4, 2) for line in lines]
    assert image.shape == (128, 128, 3) and 1 <= len(boxes) <= 5
    for index, box in enumerate(boxes):
        assert all(cv2.intersectConvexConvex(box, other)[0] < 0.1 for other in boxes[:index])


def test_angle_error_takes_the_best_score_at_the_box(parts):
    truth = torch.tensor([[50.0, 50, 30, 10, 0.05], [100.0, 100, 30, 10, 1.0], [20.0, 20, 30, 10, 1.0]])
    boxes = torch.tensor(
        [[52.0, 50, 30, 10, math.pi - 0.05], [50.0, 50, 30, 10, 0.05], [58.0, 50, 30, 10, 1.5], [100, 104, 10, 30, 1.0]]
    )
    scores = torch.tensor([0.9, 0.5, 0.95, 0.3])
    error = parts['measure'].angle_errors(boxes, scores, truth)
    # Around the border the distance is 0.1; a box of the other edge first is turned by 90°; nothing is at the third.
    assert error[:2].tolist() == pytest.approx([0.1, math.pi / 2], abs=1e-5) and error[2].isnan()
    assert parts['measure'].angle_errors(boxes[:0], scores[:0], truth).isnan().all()


@pytest.mark.parametrize('dims', [16, 32])
def test_costs_of_a_layer_are_those_of_the_formula(parts, dims):
    tokens = 8 * 8 + 4 * 4 + 2 * 2 + 1
    per_token = 9 * dims + dims**2 + 2 * dims * 4 * dims
    costs = parts['measure'].layer_costs(dims, 64, 'dwsep')
    assert costs['gflop'] * 1e9 == pytest.approx(2 * tokens * per_token)
    deformable, dense = (parts['measure'].layer_costs(dims, 64, kind) for kind in ('deformable', 'dense'))
    assert dense['gflop'] * 1e9 == pytest.approx(2 * tokens * (4 * dims**2 + 2 * tokens * dims + 8 * dims**2))
    assert costs['mib'] < deformable['mib']


def test_a_claim_holds_only_if_every_seed_agrees(parts):
    e = parts['claims'].Evidence(
        {'a': {0: dict(ap50=0.5), 1: dict(ap50=0.6)}, 'b': {0: dict(ap50=0.4), 1: dict(ap50=0.61)}}
    )
    a, b = e.get('a', 'ap50'), e.get('b', 'ap50')
    for higher in ([(a, b, 0)], [(a, b, 0.05)], [(a, {0: None, 1: 0.1}, 0)]):
        e.add('claim', 'source', 'a above b', e.rows([('A', 'a')], [('AP50', 'ap50')]), higher)
    assert [claim['holds'] for claim in e.claims] == [False, True, None]
    assert e.claims[0]['arms'] == [dict(name='A', metric='AP50', mean=0.55, std=0.0707, seeds=[0, 1])]


def test_arms_differ_in_what_they_say(parts, tmp_path):
    cfgs = {
        name: parts['arms'].arm_config(
            name, tmp_path / 'data', tmp_path, 10, 0, tmp_path / 'x.pth' if 'start' in arm else None
        )
        for name, arm in parts['arms'].ARMS.items()
    }
    heads = {name: cfg.model.bbox_head.num_classes for name, cfg in cfgs.items()}
    assert set(heads.values()) == {1}
    assert cfgs['none'].model.encoder == dict(type='none', embed_dims=64)
    assert cfgs['exchange'].model.encoder.layer_cfg.mixer_cfg.cross_level == 'adjacent'
    assert cfgs['deformable'].model.encoder.type == 'deformable'
    assert cfgs['plain_l1'].model.bbox_head.loss_bbox.angle_l1 == 'plain'
    assert [cost.get('angle_l1') for cost in cfgs['plain_l1'].model.train_cfg.assigner.match_costs] == [
        None,
        'plain',
        None,
    ]
    assert 'angle_l1' not in cfgs['dwsep'].model.bbox_head.loss_bbox
    assert {str(cfg.load_from) for cfg in cfgs.values()} == {'None', str(tmp_path / 'x.pth')}
    assert [stage.num_classes for stage in cfgs['cascade'].model.roi_head.bbox_head] == [1, 1]
