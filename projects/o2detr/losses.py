"""L1 distance of rotated boxes that knows that an angle is periodic, for O²DETR (arXiv 2106.03146).

Not in the paper: our decision. A plain L1 says that 1° and 179° are as far apart as can be, while they are 2° apart;
Gaussian losses, which come with it, know better, and the two would pull in opposite directions. A rectangle also has
two forms, ``(w, h, θ)`` and ``(h, w, θ + 90°)``, and no continuous network can always give the one with the longer side
first; the distance is that to the nearer form. On a square the Gaussian losses give the angle no gradient, and an L1
gives one towards an arbitrary quarter, so there the angle has no weight.

Shapes: ``P`` boxes, ``...`` leading dimensions that broadcast.
"""

import torch
from mmdet.models.losses.utils import weighted_loss
from mmrotate.registry import MODELS
from torch import Tensor, nn

from .angles import angle_distance

ANGLE_L1 = ('nearer', 'wrapped', 'plain')


def check_angle_l1(angle_l1: str) -> str:
    """Return ``angle_l1`` if it is known.

    Raises:
        ValueError: It is not one of 'nearer', 'wrapped', 'plain'.
    """
    if angle_l1 not in ANGLE_L1:
        raise ValueError(f'angle_l1 must be one of {ANGLE_L1}, not {angle_l1!r}')
    return angle_l1


def forms_of(boxes: Tensor, angle_l1: str) -> tuple[Tensor, ...]:
    """Return the forms of normalized rectangles that a prediction may have.

    Args:
        boxes: ``(..., 5)``.
        angle_l1: ``'nearer'`` for both forms, else one.

    Returns:
        Tensors ``(..., 5)``: the boxes themselves, and with the sides exchanged and a quarter turned.
    """
    if angle_l1 != 'nearer':
        return (boxes,)
    x, y, w, h, angle = boxes.unbind(-1)
    return boxes, torch.stack([x, y, h, w, angle + 0.5], dim=-1)


def angle_l1_term(pred_angle: Tensor, target: Tensor, angle_l1: str = 'nearer') -> Tensor:
    """The angle's part of the distance.

    With ``d`` the difference of the angles over π: ``min(d mod 1, 1 - d mod 1)`` times ``1 - min / max`` of the sides
    of the target; ``'plain'``: ``d``, as in public rotated DETRs.

    Args:
        pred_angle: ``(...)``, normalized.
        target: ``(..., 5)``, normalized ground truth.
        angle_l1: ``'plain'``, or another name of :data:`ANGLE_L1`.

    Returns:
        ``(...)``, the arguments broadcast.
    """
    if angle_l1 == 'plain':
        return (pred_angle - target[..., 4]).abs()
    sides = target[..., 2:4]
    elongation = 1 - sides.amin(-1) / sides.amax(-1).clamp(min=1e-9)
    return angle_distance(pred_angle, target[..., 4], period=1.0) * elongation


@weighted_loss
def rbox_l1_loss(pred: Tensor, target: Tensor, angle_l1: str = 'nearer') -> Tensor:
    """Absolute differences of the five normalized numbers, the last one as :func:`angle_l1_term`.

    Args:
        pred: ``(P, 5)``.
        target: ``(P, 5)``.
        angle_l1: One of :data:`ANGLE_L1`.

    Returns:
        ``(P, 5)`` before the host's decorator weights and reduces.
    """
    distances = []
    for form in forms_of(target, angle_l1):
        angle = angle_l1_term(pred[..., 4], form, angle_l1)
        distances.append(torch.cat([(pred[..., :4] - form[..., :4]).abs(), angle[..., None]], dim=-1))
    stacked = torch.stack(distances)
    nearer = stacked.sum(-1, keepdim=True).argmin(0, keepdim=True)
    return stacked.take_along_dim(nearer, dim=0).squeeze(0)


@MODELS.register_module()
class PeriodicRBoxL1Loss(nn.Module):
    """L1 loss of normalized rotated boxes with the angle modulo π, see :func:`angle_l1_term`.

    Args:
        angle_l1: ``'nearer'`` for the nearer of the two forms of a rectangle; ``'wrapped'`` for the one with the longer
            side first; ``'plain'`` for that form and an angle as any other number, as public rotated DETRs have it.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: 5.0 in public rotated DETRs; the paper's is not known.
    """

    def __init__(self, angle_l1: str = 'nearer', reduction: str = 'mean', loss_weight: float = 5.0) -> None:
        super().__init__()
        self.angle_l1 = check_angle_l1(angle_l1)
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | None = None
    ) -> Tensor:
        """Loss of pairs.

        Args:
            pred: ``(P, 5)`` normalized boxes.
            target: ``(P, 5)``, the same of the ground truth.
            weight: ``(P, 5)`` or None.
            avg_factor: What the sum is divided by; None for the number of numbers.

        Returns:
            A number, or ``(P, 5)`` without reduction.
        """
        return self.loss_weight * rbox_l1_loss(
            pred, target, weight, reduction=self.reduction, avg_factor=avg_factor, angle_l1=self.angle_l1
        )
