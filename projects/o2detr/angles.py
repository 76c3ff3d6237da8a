"""Angle conventions and normalized rotated boxes of O²DETR (arXiv 2106.03146).

A box is ``(cx, cy, w, h, θ)`` in pixels and radians, as :class:`mmrotate.structures.RotatedBoxes`: ``w`` lies along θ,
which grows clockwise in the image. The long-edge conventions have ``w >= h`` and

- ``le180``: θ in [0, π);
- ``le90``: θ in [-π/2, π/2), that of most configs of mmrotate.

A normalized box is five numbers in [0, 1]: the center by width and height of the image, both sides by the *longer* side
of the image, the angle by π, counted from 0 in either convention (it is a line's, so it goes around).

Not in the paper: our decisions. OpenCV's convention ``oc`` has no long edge, so its angle jumps by 90° where two sides
are nearly equal, and it is refused. Public rotated DETRs divide ``w`` by the width and ``h`` by the height, the same as
ours on square images; on others an upright object along the longer side would need a number above 1, and the ratio of
the sides would change.

Shapes: ``...`` any leading dimensions, e.g. ``(B, M, 5)``.
"""

import math
from collections.abc import Sequence

import torch
from mmdet.models.layers import inverse_sigmoid
from torch import Tensor

ANGLE_STARTS = {'le180': 0.0, 'le90': -math.pi / 2}
MIN_SIZE = 1e-3


def check_angle_version(angle_version: str) -> str:
    """Return the name of an angle convention if it is one of ours.

    Raises:
        ValueError: It is not; the message lists those that are.
    """
    if angle_version not in ANGLE_STARTS:
        why = ", whose angle jumps by 90° where the sides are equal: use 'le180' or 'le90'"
        raise ValueError(
            f'angle_version must be one of {sorted(ANGLE_STARTS)}, not {angle_version!r}'
            f'{why if angle_version == "oc" else ""}'
        )
    return angle_version


def wrap_angle(theta: Tensor, angle_version: str = 'le180') -> Tensor:
    """Bring angles, in radians, into the range of the convention; any shape."""
    start = ANGLE_STARTS[angle_version]
    turned = torch.remainder(theta - start, math.pi)
    # The remainder of a tiny negative number rounds to π itself, which is not in the range.
    return torch.where(turned >= math.pi, torch.zeros_like(turned), turned) + start


def angle_distance(first: Tensor, second: Tensor, period: float = math.pi) -> Tensor:
    """Shortest way between angles of a line, in [0, period / 2]; the arguments broadcast."""
    delta = torch.remainder((first - second).abs(), period)
    return torch.minimum(delta, period - delta)


def regularize(boxes: Tensor, angle_version: str = 'le180') -> Tensor:
    """Return the same rectangles with ``w >= h`` and θ in the range of the convention.

    The host's ``RotatedBoxes.regularize_boxes`` works in place and turns squares by 90°, so a second call turns them
    again; this one returns new boxes and leaves its own results as they are.

    Args:
        boxes: ``(..., 5)``, pixels and radians; any angle.
        angle_version: ``'le180'`` or ``'le90'``.

    Returns:
        ``(..., 5)``.
    """
    x, y, w, h, theta = boxes.unbind(-1)
    swap = h > w
    theta = wrap_angle(torch.where(swap, theta + math.pi / 2, theta), angle_version)
    return torch.stack([x, y, torch.where(swap, h, w), torch.where(swap, w, h), theta], dim=-1)


def clamp_sides(boxes: Tensor, min_size: float) -> Tensor:
    """Return ``(..., 5)`` boxes whose sides are at least ``min_size``, in their unit."""
    return torch.cat([boxes[..., :2], boxes[..., 2:4].clamp(min=min_size), boxes[..., 4:]], dim=-1)


def scale_boxes(boxes: Tensor, factors: Sequence[float]) -> Tensor:
    """Boxes of a picture whose width and height were scaled by different factors.

    A rectangle becomes a parallelogram; the result is the smallest rectangle around it, which lies along its longer
    side, as what ``ConvertBoxType`` makes of scaled corners. The host's ``RotatedBoxes.rescale_`` turns the angle the
    wrong way (mmrotate #965).

    Args:
        boxes: ``(..., 5)``, pixels and radians.
        factors: Of width and height.

    Returns:
        ``(..., 5)``, the longer side first, any angle.
    """
    across, down = factors
    x, y, w, h, theta = boxes.unbind(-1)
    cos, sin = theta.cos(), theta.sin()
    along = torch.stack([w * cos * across, w * sin * down], dim=-1)
    other = torch.stack([-h * sin * across, h * cos * down], dim=-1)
    swap = along.square().sum(-1, keepdim=True) < other.square().sum(-1, keepdim=True)
    along, other = along.where(~swap, other), other.where(~swap, along)
    length = along.norm(dim=-1).clamp(min=MIN_SIZE**2)
    overhang = (along * other).sum(-1).abs() / length
    height = (along[..., 0] * other[..., 1] - along[..., 1] * other[..., 0]).abs() / length
    angle = torch.atan2(along[..., 1], along[..., 0])
    return torch.stack([x * across, y * down, length + overhang, height, angle], dim=-1)


def box_factors(img_shape: Sequence[int], like: Tensor) -> Tensor:
    """What normalized boxes of an image are multiplied by, for pixels and radians.

    To normalize boxes, :func:`regularize` them to ``le180`` and divide by it; sides of true boxes that are longer than
    the image exceed 1, which no prediction reaches.

    Args:
        img_shape: Height and width without padding, in pixels.
        like: A tensor of the dtype and device wanted.

    Returns:
        ``(5,)``.
    """
    height, width = img_shape[:2]
    side = max(height, width)
    # Filled in on the device: a list would be copied there, and the host would wait.
    return torch.stack([like.new_full((), factor) for factor in (width, height, side, side, math.pi)])


def refine_boxes(deltas: Tensor, reference: Tensor) -> Tensor:
    """Apply the output of a box branch to a reference.

    Center and sides are refined before the sigmoid, as in Deformable DETR. The angle is predicted from nothing, as a
    vector that points along 2θ: where θ goes around, from π to 0, the vector goes on, while one number would have to
    jump. It is not added to that of the reference: the decoder samples along the axes of the image, so a layer sees
    which way an object lies and not by how much a reference is wrong. In float32 under autocast too: bfloat16 has eight
    bits, which is half a degree or four of 1000 pixels. Not in the paper.

    Args:
        deltas: ``(..., 6)``, any real numbers; the last two are cosine and sine of 2θ, of any length but 0.
        reference: ``(..., 2)`` points, or boxes ``(..., 4 or 5)`` whose angle is not used; normalized.

    Returns:
        ``(..., 5)`` normalized boxes, float32.
    """
    deltas, reference = deltas.float(), reference.float()
    known = min(reference.size(-1), 4)
    start = inverse_sigmoid(reference[..., :known])
    box = torch.cat([deltas[..., :known] + start, deltas[..., known:4]], dim=-1).sigmoid()
    angle = torch.atan2(deltas[..., 5:], deltas[..., 4:5]) / (2 * math.pi)
    return torch.cat([box, angle - angle.detach().floor()], dim=-1)


def circular(boxes: Tensor) -> Tensor:
    """Return normalized boxes with the angle as a point on a circle, which has no end: ``(..., 5)`` to ``(..., 6)``.

    The last two numbers are cosine and sine of 2θ, brought to [0, 1] as the others are.
    """
    turn = 2 * math.pi * boxes[..., 4:]
    return torch.cat([boxes[..., :4], (1 + turn.cos()) / 2, (1 + turn.sin()) / 2], dim=-1)


def enclosing_sides(boxes: Tensor) -> Tensor:
    """Width and height of the upright rectangles around normalized boxes: ``(..., 5)`` to ``(..., 2)``.

    Both are in the unit of the sides of the boxes.
    """
    w, h, angle = boxes[..., 2:].unbind(-1)
    cos, sin = (angle * math.pi).cos().abs(), (angle * math.pi).sin().abs()
    return torch.stack([w * cos + h * sin, w * sin + h * cos], dim=-1)
