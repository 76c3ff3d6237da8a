"""Denoising queries: noise of rotated boxes, who looks at whom, what they learn."""

import math

import pytest
import torch
from mmcv.ops import box_iou_rotated
from mmengine.structures import InstanceData

from mmplugins.o2detr.angles import box_factors
from mmplugins.o2detr.denoising import RotatedCdnQueryGenerator, denoising_mask, denoising_targets

SHAPES = ((64, 96), (96, 64))


@pytest.fixture
def make_generator():
    def make(**changes):
        torch.manual_seed(0)
        groups = dict(dynamic=True, num_dn_queries=20)
        return RotatedCdnQueryGenerator(
            **{**dict(num_classes=3, embed_dims=8, num_matching_queries=12, group_cfg=groups), **changes}
        )

    return make


@pytest.fixture
def gts(random_boxes):
    torch.manual_seed(0)
    return [
        InstanceData(bboxes=random_boxes(number, shape), labels=torch.randint(3, (number,)))
        for number, shape in zip((4, 2), SHAPES, strict=True)
    ]


def in_pixels(boxes: torch.Tensor) -> torch.Tensor:
    return torch.stack([each * box_factors(shape, each) for each, shape in zip(boxes, SHAPES, strict=True)])


def test_shapes_and_groups(make_generator, gts):
    labels, boxes, mask, meta = make_generator()(gts, SHAPES, 7)
    # 20 // 4 groups of 2 * 4.
    assert meta['num_denoising_groups'] == 5 and meta['num_denoising_queries'] == 40
    assert labels.shape == (2, 40, 8) and boxes.shape == (2, 40, 5) and mask.shape == (47, 47)
    assert ((boxes >= 0) & (boxes <= 1)).all()


def test_without_noise_queries_are_the_true_boxes(make_generator, gts):
    generator = make_generator(box_noise_scale=1e-9, label_noise_scale=1e-9, angle_noise_scale=0.0)
    labels, boxes, _, meta = generator(gts, SHAPES, 7)
    boxes = in_pixels(boxes).unflatten(1, (5, 2, 4))
    for image, gt in enumerate(gts):
        count = len(gt.labels)
        assert torch.allclose(boxes[image, :, :, :count], gt.bboxes.expand(5, 2, count, 5), atol=1e-3)
        content = labels[image].unflatten(0, (5, 2, 4))[:, :, :count]
        assert torch.equal(content, generator.label_embedding(gt.labels).expand(5, 2, count, 8))


def test_edges_move_and_boxes_turn_by_as_much_as_is_said(make_generator):
    """In the frame of a turned box; edges so little that they do not cross."""
    generator, theta = make_generator(box_noise_scale=0.4, angle_noise_scale=0.5), 0.7
    sides = torch.tensor([20.0, 8.0])
    box = torch.tensor([[[50.0, 40.0, *sides, theta]]])
    noisy = generator.generate_dn_bbox_query(box, 500)[0].unflatten(0, (500, 2))
    into_frame = torch.tensor([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    center = (noisy[..., :2] - box[0, 0, :2]) @ into_frame
    for kind in (0, 1):
        for sign in (-1, 1):
            edges = center[:, kind] + sign * noisy[:, kind, 2:4] / 2
            moved = (edges - sign * sides / 2).abs() / (0.4 * sides / 2)
            assert ((moved > kind - 1e-4) & (moved < kind + 1 + 1e-4)).all()
            assert moved.mean(0).allclose(torch.tensor(kind + 0.5), atol=0.05)
        turned = (noisy[:, kind, 4] - theta).abs() / (0.5 * math.pi / 4)
        assert ((turned >= kind) & (turned <= kind + 1)).all()


def test_little_noise_overlaps_more(make_generator, gts):
    _, boxes, _, _ = make_generator()(gts[:1], SHAPES[:1], 7)
    boxes = (boxes[0] * box_factors(SHAPES[0], boxes)).unflatten(0, (-1, 2, 4))
    ious = [
        box_iou_rotated(boxes[:, kind].flatten(0, 1), gts[0].bboxes.repeat(len(boxes), 1), aligned=True)
        for kind in (0, 1)
    ]
    assert ious[0].mean() > 2 * ious[1].mean()


def test_half_of_the_label_noise_is_exchanged(make_generator):
    generator = make_generator(label_noise_scale=1.0, num_classes=1000, embed_dims=4)
    labels = torch.full((1, 400), 7)
    same = (generator.generate_dn_label_query(labels, 5) == generator.label_embedding(torch.tensor(7))).all(-1)
    assert same.float().mean() == pytest.approx(0.5, abs=0.05)


def test_who_looks_at_whom():
    mask = denoising_mask(2, 3, 5, torch.device('cpu'))
    blocks = [range(0, 4), range(4, 8), range(8, 12), range(12, 17)]
    for i, rows in enumerate(blocks):
        for j, columns in enumerate(blocks):
            # Its own group and those that are matched.
            assert mask[list(rows)][:, list(columns)].eq(j != i and j != 3).all(), (i, j)


def test_targets_are_the_boxes_of_little_noise(gts):
    labels, positions = denoising_targets(gts[1], 4, 3, num_classes=3)
    assert positions.tolist() == [0, 1, 8, 9, 16, 17]
    assert torch.equal(labels[positions], gts[1].labels.repeat(3))
    labels[positions] = 3
    assert labels.eq(3).all() and labels.shape == (24,)


def test_of_many_boxes_some_are_drawn(make_generator, random_boxes):
    gts = [InstanceData(bboxes=random_boxes(number), labels=torch.arange(number) % 3) for number in (300, 5)]
    generator = make_generator(box_noise_scale=1e-9, label_noise_scale=1e-9, angle_noise_scale=0.0)
    labels, boxes, _, meta = generator(gts, [(128, 128)] * 2, 7)
    assert meta['num_denoising_queries'] == 40 and [len(gt.labels) for gt in meta['dn_instances']] == [20, 5]
    assert meta['gt_instances'] is gts  # of the matching
    pixels = boxes[0, :20] * box_factors((128, 128), boxes)
    assert torch.allclose(pixels, meta['dn_instances'][0].bboxes, atol=1e-3)
    first, second = (generator.drawn(gts[0]).bboxes for _ in range(2))
    assert not torch.equal(first, second)


def test_no_boxes(make_generator):
    gts = [InstanceData(bboxes=torch.zeros(0, 5), labels=torch.zeros(0, dtype=torch.long))] * 2
    labels, boxes, mask, meta = make_generator()(gts, SHAPES, 7)
    assert meta['num_denoising_queries'] == 0 and labels.shape == (2, 0, 8) and boxes.shape == (2, 0, 5)
    assert mask.shape == (7, 7) and not mask.any()
