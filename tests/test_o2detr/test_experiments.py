"""The experiments: images, measures, arms, and what the claims follow from."""

import json
import math

import cv2
import numpy as np
import pytest
import torch
import yaml

from experiments.frame import measure
from experiments.frame.claims import Found, to_json
from experiments.frame.tasks import Job
from experiments.o2detr import aerial
from experiments.o2detr.aerial import aerial_config
from experiments.o2detr.arms import ARMS, ENCODERS, arm_config
from experiments.o2detr.claims import KINDS, claims
from experiments.o2detr.data import Painter, make_data
from experiments.o2detr.layers import EncoderCase
from experiments.o2detr.measure import angle_errors
from mmplugins.o2detr.verbs.diagnose import ROWS


def test_ink_lies_in_the_boxes(repo):
    painter = Painter('val', repo / 'tests/data/clothing10')
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


def test_parts_share_no_scan_and_boxes_do_not_overlap(repo):
    train, val = (Painter(part, repo / 'tests/data/clothing10') for part in ('train', 'val'))
    assert not set(train.chosen) & set(val.chosen) and not set(train.photos) & set(val.photos)
    image, lines = train.paint()
    boxes = [np.array(line.split()[:8], np.float32).reshape(4, 2) for line in lines]
    assert image.shape == (128, 128, 3) and 1 <= len(boxes) <= 5
    for index, box in enumerate(boxes):
        assert all(cv2.intersectConvexConvex(box, other)[0] < 0.1 for other in boxes[:index])


def test_angle_error_takes_the_best_score_at_the_box():
    truth = torch.tensor([[50.0, 50, 30, 10, 0.05], [100.0, 100, 30, 10, 1.0], [20.0, 20, 30, 10, 1.0]])
    boxes = torch.tensor(
        [[52.0, 50, 30, 10, math.pi - 0.05], [50.0, 50, 30, 10, 0.05], [58.0, 50, 30, 10, 1.5], [100, 104, 10, 30, 1.0]]
    )
    scores = torch.tensor([0.9, 0.5, 0.95, 0.3])
    error = angle_errors(boxes, scores, truth)
    # Around the border the distance is 0.1; a box of the other edge first is turned by 90°; nothing is at the third.
    assert error[:2].tolist() == pytest.approx([0.1, math.pi / 2], abs=1e-5) and error[2].isnan()
    assert angle_errors(boxes[:0], scores[:0], truth).isnan().all()


def layer_costs(dims, side, name, device='cpu'):
    call = EncoderCase(side, dims, (name,), device).arms('layer')[name]
    return measure.flops(call), measure.kept_bytes(call)


@pytest.mark.parametrize('dims', [16, 32])
def test_costs_of_a_layer_are_those_of_the_formula(dims):
    tokens = 8 * 8 + 4 * 4 + 2 * 2 + 1
    flops, kept = layer_costs(dims, 64, 'ours')
    assert flops == 2 * tokens * (9 * dims + dims**2 + 2 * dims * 4 * dims)
    assert kept < layer_costs(dims, 64, 'deformable')[1]
    expected = 2 * tokens * (4 * dims**2 + 2 * tokens * dims + 8 * dims**2)
    dense = [
        layer_costs(dims, 64, name, device)
        for name in ('dense, explicit', 'dense, fused')
        for device in ('cpu', 'meta')
    ]
    assert {flops for flops, _ in dense} == {expected}
    # Nothing is computed on `meta`, and the same is kept.
    assert dense[0] == dense[1] and dense[2][1] < dense[0][1]


SCORES = dict(dwsep=0.5, exchange=0.6, plain_l1=0.4, retinanet=0.4, cascade=0.7, longer=0.5)
ENCODED = dict(dwsep=0.5, deformable=0.52, none=0.3)

AERIAL = dict(
    default=0.5, retinanet=0.4, base=0.3, deformable=0.3, cascade=0.6, longer=0.5, faster_rcnn=0.4, matched=0.4
)


def found_with(aerial=(), encode=(), alone_score=0.4, **changes):
    """Results of three seeds that differ by a little noise, of another size in each arm and row.

    Differences that are equal in all seeds would tell nothing of their spread.
    """
    aerial = dict(aerial)
    results = {Job('costs', kind, 0): {'D 64, 256²': dict(gflop=cost, mib=cost)} for cost, kind in enumerate(KINDS)}
    for place, (arm, score) in enumerate({**SCORES, **changes}.items()):
        for seed, noise in enumerate((-0.01, 0.0, 0.01)):
            value = score + noise * (1 - place / 10)
            angles = dict(angle=9.0, angle_border=10 - 10 * value, border_boxes=7, found=0.9)
            results[Job('detect', arm, seed)] = dict(ap50=value, ap75=value, parameters=1.0, **angles)
    for place, (arm, score) in enumerate({**ENCODED, **dict(encode)}.items()):
        for seed, noise in enumerate((-0.01, 0.0, 0.01)):
            value = score + noise * (1 - place / 10)
            results[Job('encode', arm, seed)] = dict(ap50=value, ap75=value, parameters=1.0)
    for place, (arm, score) in enumerate({**AERIAL, **aerial}.items()):
        for seed, noise in enumerate((-0.01, 0.0, 0.01)):
            values = [score + noise * (1 - place / 10 + row / 100) for row in range(len(ROWS))]
            rows = {row: dict(ap50=value, ap75=value) for row, value in zip(ROWS, values, strict=True)}
            alone = {'as it is': dict(ap50=alone_score + noise / 2, ap75=alone_score + noise / 2)}
            results[Job('aerial', arm, seed)] = dict(
                rows=rows, alone=alone, cpu_seconds=1.0, iterations=3060, parameters=1.0
            )
    return Found(results)


def verdicts(found):
    return [to_json(claim)['verdict'] for claim in claims(found)]


def test_claims_hold_where_every_direction_is_right():
    assert verdicts(found_with()) == ['holds'] * 15


@pytest.mark.parametrize(
    ('arm', 'score', 'claim'),
    [('exchange', 0.4, 11), ('plain_l1', 0.9, 12), ('longer', 0.9, 13), ('retinanet', 0.9, 14)],
)
def test_a_claim_fails_where_its_direction_is_wrong(arm, score, claim):
    found = verdicts(found_with(**{arm: score}))
    assert found.pop(claim) == 'does not hold' and set(found) == {'holds'}


@pytest.mark.parametrize(('arm', 'score'), [('deformable', 0.7), ('none', 0.6)])
def test_the_claim_of_encoders_fails_where_its_direction_is_wrong(arm, score):
    assert verdicts(found_with(encode={arm: score}))[10] == 'does not hold'


def test_the_cascade_is_compared_with_its_head_alone():
    found = verdicts(found_with(alone_score=0.7))
    assert found.pop(9) == 'does not hold' and set(found) == {'holds'}


@pytest.mark.parametrize(
    ('arm', 'score', 'claim'),
    [
        ('retinanet', 0.9, 1),
        ('faster_rcnn', 0.9, 2),
        ('faster_rcnn', 0.9, 3),
        ('base', 0.9, 4),
        ('matched', 0.9, 5),
        ('deformable', 0.9, 7),
        ('longer', 0.9, 8),
    ],
)
def test_a_claim_of_aerial_frames_fails_where_its_direction_is_wrong(arm, score, claim):
    assert verdicts(found_with({arm: score}))[claim] == 'does not hold'


def test_arms_that_were_not_run_are_undecided():
    results = {Job('aerial', 'default', seed): found_with().results['aerial']['default'][seed] for seed in range(3)}
    found = [to_json(claim) for claim in claims(Found(results))]
    # What the default shows by itself.
    assert [claim['verdict'] for claim in found] == ['undecided'] * 6 + ['holds'] + ['undecided'] * 8
    shown = [any(arm['values'] for arm in claim['arms']) for claim in found[1:10]]
    assert shown == [True, True, False, True, False, True, False, True, False]


def test_what_shipped_configs_reach_is_kept_for_the_metafile(tmp_path, repo):
    found = found_with()
    for seeds in found.results['aerial'].values():
        for seed, job in seeds.items():
            job.update(machine='AB'[seed % 2], date=f'2026-01-0{seed + 1}')
    aerial.record_models(found, None, tmp_path)
    models = json.loads((tmp_path / 'models.json').read_text())
    names = {model['Name'] for model in yaml.safe_load((repo / 'projects/o2detr/metafile.yml').read_text())['Models']}
    assert set(models) < names and len(models) == len(aerial.ARMS) - 2
    model = models['o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav']
    assert model['metrics'] == {'dota/AP50': 0.5, 'dota/AP75': 0.5}
    assert model['seeds']['0'] == {'dota/AP50': 0.49, 'dota/AP75': 0.49} and model['machine'] == 'A; B'


def test_aerial_arms_are_the_shipped_configs(tmp_path):
    cfgs = {arm: aerial_config(arm, 1, tmp_path, tmp_path / 'x.pth', quick=False) for arm in aerial.ARMS}
    assert cfgs['longer'].train_cfg.max_epochs == cfgs['cascade'].train_cfg.max_epochs == 12
    assert {cfg.train_cfg.max_epochs for arm, cfg in cfgs.items() if 'start' not in aerial.ARMS[arm]} == {36}
    assert cfgs['default'].model.dn_cfg and cfgs['default'].model.recompute_query_pos
    others = [cfgs[arm].model for arm in ('matched', 'base', 'deformable')]
    assert not any(model.dn_cfg or model.recompute_query_pos for model in others)
    assert cfgs['base'].model.distinct_thr is None and 'distinct_thr' not in cfgs['default'].model
    losses = {arm: cfgs[arm].model.bbox_head.loss_cls.type for arm in ('default', 'base', 'deformable')}
    assert losses == dict(default='mmdet.QualityFocalLoss', base='mmdet.FocalLoss', deformable='mmdet.FocalLoss')
    assert cfgs['deformable'].model.encoder.type == 'deformable' and cfgs['deformable'].model.distinct_thr is None


def test_arms_differ_in_what_they_say(tmp_path):
    cfgs = {
        name: arm_config(arm, tmp_path / 'data', tmp_path, 10, 0, tmp_path / 'x.pth' if 'start' in arm else None)
        for name, arm in ARMS.items()
    }
    heads = {name: cfg.model.bbox_head.num_classes for name, cfg in cfgs.items()}
    assert set(heads.values()) == {1}
    assert cfgs['exchange'].model.encoder.layer_cfg.mixer_cfg.cross_level == 'adjacent'
    assert cfgs['plain_l1'].model.bbox_head.loss_bbox.angle_l1 == 'plain'
    assert [cost.get('angle_l1') for cost in cfgs['plain_l1'].model.train_cfg.assigner.match_costs] == [
        None,
        'plain',
        None,
    ]
    assert 'angle_l1' not in cfgs['dwsep'].model.bbox_head.loss_bbox
    assert {str(cfg.load_from) for cfg in cfgs.values()} == {'None', str(tmp_path / 'x.pth')}
    assert [stage.num_classes for stage in cfgs['cascade'].model.roi_head.bbox_head] == [1, 1]


def test_encoders_differ_in_nothing_else(tmp_path):
    cfgs = {name: arm_config(arm, tmp_path / 'data', tmp_path, 10, 0, None) for name, arm in ENCODERS.items()}
    encoders = {name: cfg.model.pop('encoder') for name, cfg in cfgs.items()}
    assert {name: encoder.type for name, encoder in encoders.items()} == {name: name for name in ENCODERS}
    assert encoders['dwsep'].num_layers == encoders['deformable'].num_layers == 4
    assert cfgs['dwsep'].model == cfgs['none'].model == cfgs['deformable'].model


def test_large_digits_are_longer_than_what_a_cell_sees(tmp_path, repo):
    """67 pixels: 11 of the stem, then convolutions of 3x3 at strides 4 and three times 8."""
    make_data(tmp_path, repo / 'tests/data/clothing10', 0.05, large=True)
    lines = [line for path in tmp_path.glob('*/labelTxt/*.txt') for line in path.read_text().splitlines()]
    corners = np.array([line.split()[:8] for line in lines], dtype=float).reshape(-1, 4, 2)
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
    assert len(sides) > 30 and np.median(sides) > 67 and 36 * 1.6 - 1 < sides.min() and sides.max() < 52 * 2.4 + 1
