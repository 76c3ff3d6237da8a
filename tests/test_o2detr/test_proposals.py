"""Distinct proposals: the overlap against sums over a grid, the choice against loops."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmplugins.o2detr.proposals import CANDIDATES, distinct_tokens, probabilistic_iou


def density(box, points):
    """Density of the Gaussian of a box at points, from its covariance matrix."""
    x, y, w, h, theta = box
    turn = torch.tensor([[theta.cos(), -theta.sin()], [theta.sin(), theta.cos()]], dtype=torch.float64)
    sigma = turn @ torch.diag(torch.stack([w, h]) ** 2 / 12) @ turn.T
    off = points - torch.stack([x, y])
    exponent = (off @ sigma.inverse() * off).sum(-1)
    return (-exponent / 2).exp() / (2 * math.pi * sigma.det().sqrt())


def test_overlap_is_one_minus_the_hellinger_distance():
    boxes = torch.tensor(
        [[0.0, 0, 8, 3, 0.3], [1, 0.5, 8, 3, 0.3], [0, 0, 3, 8, 0.3], [2, -1, 4, 4, 1.0], [30, 0, 8, 3, 0.3]],
        dtype=torch.float64,
    )
    axis = torch.arange(-25, 45, 0.1, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    roots = torch.stack([density(box, points).sqrt() for box in boxes])
    expected = 1 - (1 - roots @ roots.T * 0.1**2).clamp(min=0).sqrt()
    assert torch.allclose(probabilistic_iou(boxes, boxes), expected, atol=1e-3)
    assert torch.allclose(probabilistic_iou(boxes[:2], boxes), expected[:2], atol=1e-3)


def test_overlap_is_that_of_the_rectangle_and_one_with_itself(random_boxes):
    boxes = random_boxes(20)
    other = boxes[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, math.pi / 2])
    both = torch.cat([boxes, other])
    both = probabilistic_iou(both, both)
    assert torch.allclose(both[:20, 20:], both[:20, :20], atol=2e-3)
    assert both.diagonal().min() > 0.99 and both.min() >= 0 and both.max() <= 1


def chosen_by_loops(scores, boxes, sides, num, thr):
    width, height = sides.tolist()
    pixels = boxes * torch.tensor([width, height, *[max(width, height)] * 2, math.pi])
    order = scores.argsort(descending=True)[: CANDIDATES * num].tolist()
    overlap = probabilistic_iou(pixels, pixels)
    repeats = [i for place, i in enumerate(order) if any(overlap[i, j] > thr for j in order[:place])]
    return ([i for i in order if i not in repeats] + repeats)[:num]


@pytest.mark.parametrize('num', [5, 20, 25, 60])
def test_choice_is_that_of_loops(random_boxes, num):
    torch.manual_seed(0)
    sides = torch.tensor([[160.0, 96.0], [96.0, 160.0]])
    boxes = torch.stack([random_boxes(15).repeat(4, 1) for _ in sides])
    boxes = (boxes + torch.randn(2, 60, 5) * torch.tensor([2.0, 2, 1, 1, 0.05])) / torch.tensor(
        [128.0, 128, 128, 128, math.pi]
    )
    scores = torch.randn(2, 60)
    found = distinct_tokens(scores, boxes, sides, num, 0.7)
    assert found.tolist() == [chosen_by_loops(*image, num, 0.7) for image in zip(scores, boxes, sides, strict=True)]


def test_excluded_tokens_come_behind_repeats():
    scores = torch.tensor([[-torch.inf, 1.0, -torch.inf, 2.0, 0.0, -torch.inf]])
    # Those of tokens in the padding, whose anchors are infinite, are one box too.
    boxes = torch.where(scores[..., None].isinf(), 1.0, torch.tensor([0.2, 0.2, 0.1, 0.05, 0.3]))
    assert distinct_tokens(scores, boxes, torch.ones(1, 2), 3, 0.7).tolist() == [[3, 1, 4]]
    assert distinct_tokens(scores, boxes, torch.ones(1, 2), 4, 0.7)[0, :3].tolist() == [3, 1, 4]


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [each.numel() for each in (out if isinstance(out, tuple | list) else [out]) if torch.is_tensor(each)]
        self.numbers = max(self.numbers, *sizes)
        return out


def test_overlaps_of_all_pairs_are_never_in_memory_at_once(random_boxes):
    num, boxes = 10, random_boxes(200)[None] / 128
    with Largest() as largest:
        distinct_tokens(torch.randn(1, 200), boxes, torch.ones(1, 2), num, 0.7)
    assert largest.numbers == 2 * num * CANDIDATES * num  # dx and dy
