"""Conventions of rotated boxes and their normalized form."""

import math

import pytest
import torch
from mmdet.models.layers import inverse_sigmoid
from mmrotate.structures import RotatedBoxes, qbox2rbox, rbox2qbox

from mmplugins.o2detr.angles import (
    ANGLE_STARTS,
    angle_distance,
    box_factors,
    check_angle_version,
    circular,
    clamp_sides,
    enclosing_sides,
    refine_boxes,
    regularize,
    scale_boxes,
    wrap_angle,
)
from mmplugins.o2detr.match_costs import gaussian_kld

VERSIONS = sorted(ANGLE_STARTS)


def corner_distance(first, second):
    """Farthest of the corners of boxes from the nearest corner of their partners, in parts of the short side."""
    corners = [RotatedBoxes.rbox2corner(boxes) for boxes in (first, second)]
    return torch.cdist(*corners).amin(2).amax(1) / first[:, 3]


@pytest.mark.parametrize('angle', [None, 0.0, 1e-4, math.pi / 2 - 1e-4, math.pi / 2, math.pi - 1e-4], ids=str)
def test_eight_points_and_back(random_boxes, angle):
    # The way of the labels: corners in the file, converted by the pipeline, regularized by the head.
    boxes = random_boxes(100, (512, 512))
    boxes[:, 3] = boxes[:, 3].clamp(min=8).minimum(boxes[:, 2] / 1.1)
    if angle is not None:
        boxes[:, 4] = angle
    back = regularize(qbox2rbox(rbox2qbox(boxes)))
    # Corners that are 0.00025 short sides apart at most: an IoU above 0.999.
    assert corner_distance(boxes, back).max() < 2.5e-4
    assert angle_distance(boxes[:, 4], back[:, 4]).max() < 1e-3


@pytest.mark.parametrize('factors', [(0.5, 0.5), (0.5, 1.0), (1.0, 0.3), (2.0, 0.7)], ids=str)
def test_scaled_boxes_are_the_smallest_rectangles_around_the_scaled_corners(random_boxes, scaled_rectangles, factors):
    boxes = random_boxes(200, (512, 512))
    boxes[:20, 4] = torch.tensor([0, math.pi / 2]).repeat(10)
    found, expected = (regularize(x) for x in (scale_boxes(boxes, factors), scaled_rectangles(boxes, factors)))
    assert torch.allclose(found[:, 2:4], expected[:, 2:4], atol=1e-2)
    assert corner_distance(expected, found).max() < 1e-2


def test_a_vehicle_at_half_width_stands_up():
    # 60 x 12 at 30°: its axis rises as much on half the way.
    box = torch.tensor([[100.0, 50, 60, 12, math.pi / 6]])
    assert math.degrees(scale_boxes(box, (0.5, 1.0))[0, 4]) == pytest.approx(49.1, abs=0.05)
    host = RotatedBoxes(box.clone())
    host.rescale_((0.5, 1.0))
    assert math.degrees(host.tensor[0, 4]) == pytest.approx(16.1, abs=0.05)  # what mmrotate #965 is about


@pytest.mark.parametrize('version', VERSIONS)
def test_wrapped_angles_are_in_the_range(version):
    start = ANGLE_STARTS[version]
    theta = torch.cat([torch.linspace(-20, 20, 4001), start + torch.tensor([0, 1e-9, -1e-9, -1e-8, math.pi, -math.pi])])
    wrapped = wrap_angle(theta, version)
    assert (wrapped >= start).all() and (wrapped < start + math.pi).all()
    # The same line: the sine of the difference is zero.
    assert ((wrapped.double() - theta.double()).sin().abs() < 1e-5).all()


@pytest.mark.parametrize('version', VERSIONS)
def test_regular_boxes_are_the_same_rectangles(random_boxes, version):
    boxes = random_boxes(200)
    boxes[:, 4] = (boxes[:, 4] - math.pi / 2) * 8
    boxes[::2] = boxes[::2][:, [0, 1, 3, 2, 4]]
    given = boxes.clone()
    regular = regularize(boxes, version)
    assert torch.equal(boxes, given)
    assert (regular[:, 2] >= regular[:, 3]).all()
    # Not the IoU: mmcv's is wrong for some of these pairs.
    assert gaussian_kld(boxes.double(), regular.double()).diagonal().max() < 1e-6
    assert torch.equal(regularize(regular, version), regular)


def test_le90_is_the_hosts(random_boxes):
    boxes = random_boxes(100)
    boxes[::2] = boxes[::2][:, [0, 1, 3, 2, 4]]
    expected = RotatedBoxes(boxes).regularize_boxes('le90')
    assert torch.allclose(regularize(boxes, 'le90'), expected, atol=1e-6)


def test_squares_are_not_turned():
    # The host's own turns a square by 90 degrees each time.
    square = torch.tensor([[5.0, 5.0, 4.0, 4.0, 0.3]])
    assert not torch.allclose(RotatedBoxes(square).regularize_boxes('le90'), square)
    assert torch.allclose(regularize(square, 'le90'), square)
    assert torch.allclose(regularize(regularize(square, 'le90'), 'le180'), square)


def test_distance_of_angles():
    degree = math.pi / 180
    pairs = torch.tensor([[1, 179, 2], [0, 90, 90], [-1, 179, 0], [10, 371, 1], [45, 45, 0]]) * degree
    assert torch.allclose(angle_distance(pairs[:, 0], pairs[:, 1]), pairs[:, 2], atol=1e-6)


@pytest.mark.parametrize('version', ['oc', 'le135', 'LE90', ''])
def test_other_conventions_are_refused(version):
    with pytest.raises(ValueError, match='le180') as error:
        check_angle_version(version)
    assert ('jumps by 90' in str(error.value)) == (version == 'oc')


@pytest.mark.parametrize('img_shape', [(100, 100), (60, 200), (200, 60)])
def test_normalized_boxes(random_boxes, img_shape):
    boxes = regularize(random_boxes(100, img_shape))
    numbers = boxes / box_factors(img_shape, boxes)
    assert (numbers >= 0).all() and (numbers <= 1).all()
    # The ratio of the sides is that of the box, whatever the image.
    assert torch.allclose(numbers[:, 2] / numbers[:, 3], boxes[:, 2] / boxes[:, 3], rtol=1e-4)


def test_an_object_along_the_longer_side_can_be_predicted():
    # As tall as an upright image; its long side divided by the width would be 3.
    box = torch.tensor([[30.0, 90.0, 180.0, 20.0, math.pi / 2]])
    assert (box / box_factors((180, 60), box)).max() <= 1
    assert box_factors((100, 100), box).tolist() == pytest.approx([100, 100, 100, 100, math.pi])


def test_sides_are_clamped():
    boxes = clamp_sides(torch.tensor([[-1.0, -2, 0.5, -3, -4], [1, 2, 5, 4, 3]]), 1.0)
    assert boxes.tolist() == [[-1, -2, 1, 1, -4], [1, 2, 5, 4, 3]]


def test_enclosing_sides_are_those_of_the_corners(random_boxes):
    boxes = random_boxes(100)
    corners = RotatedBoxes.rbox2corner(boxes)
    boxes[:, 4] /= math.pi
    assert torch.allclose(enclosing_sides(boxes), corners.amax(1) - corners.amin(1), atol=1e-3)


def deltas_of(theta, length=1.0):
    vector = torch.stack([(2 * theta).cos(), (2 * theta).sin()], dim=-1) * torch.as_tensor(length)[..., None]
    return torch.cat([vector.new_zeros(*theta.shape, 4), vector], dim=-1)


class TestRefine:
    def test_of_points(self):
        deltas, points = torch.randn(2, 7, 6), torch.rand(2, 7, 2) * 0.8 + 0.1
        boxes = refine_boxes(deltas, points)
        assert torch.allclose(inverse_sigmoid(boxes[..., :2]), inverse_sigmoid(points) + deltas[..., :2], atol=1e-4)
        assert torch.allclose(boxes[..., 2:4], deltas[..., 2:4].sigmoid())

    @pytest.mark.parametrize('size', [4, 5])
    def test_zero_deltas_keep_center_and_sides(self, size):
        boxes = torch.rand(2, 50, 5) * 0.98 + 0.01
        refined = refine_boxes(deltas_of(torch.zeros(2, 50)), boxes[..., :size])
        assert torch.allclose(refined[..., :4], boxes[..., :4], atol=1e-5) and not refined[..., 4].any()

    @pytest.mark.parametrize('size', [2, 5])
    def test_a_vector_along_twice_the_angle_gives_the_angle(self, size):
        theta = torch.linspace(-4, 7, 400)
        angle = refine_boxes(deltas_of(theta, length=torch.rand(400) + 0.1), torch.full((400, size), 0.3))[..., 4]
        assert ((angle >= 0) & (angle <= 1)).all()
        assert (math.pi * angle - theta).sin().abs().max() < 1e-5

    def test_a_turn_needs_no_jump_of_the_vector(self):
        # Half a turn, cut anywhere, in steps of a degree: no step of the six numbers is larger than another.
        steps = deltas_of(torch.arange(181).deg2rad()).diff(dim=0).norm(dim=1)
        assert torch.allclose(steps, torch.tensor(2 * math.sin(math.pi / 180)), atol=1e-5)

    @pytest.mark.parametrize('degrees', [0.0, 1e-5, 45.0, 90.0, 135.0, 180 - 1e-5])
    def test_the_angle_has_the_same_gradient_everywhere(self, degrees):
        deltas = deltas_of(torch.tensor([math.radians(degrees)])).requires_grad_()
        refine_boxes(deltas, torch.rand(1, 5))[..., 4].sum().backward()
        assert deltas.grad[0, 4:].norm().item() == pytest.approx(1 / (2 * math.pi), rel=1e-5)


def test_circular_angles_are_as_far_apart_as_the_chord():
    boxes = torch.rand(200, 5)
    first, second = circular(boxes[:100]), circular(boxes[100:])
    chord = (math.pi * (boxes[:100, 4] - boxes[100:, 4])).sin().abs()
    assert torch.allclose((first - second)[:, 4:].norm(dim=1), chord, atol=1e-6)
    assert torch.equal(first[:, :4], boxes[:100, :4]) and first.min() >= 0 and first.max() <= 1
