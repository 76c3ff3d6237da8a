"""Costs between all predicted and all true rotated boxes, for a Hungarian matching (O²DETR, arXiv 2106.03146).

The hosts have none for rotated boxes. Each equals the loss of the same name, pair by pair (tests compare). The Gaussian
ones are written out, which is exact where determinants of 2x2 matrices cancel, and takes matrices of ``(Q, G)`` numbers
and not ``Q G`` matrices.

Shapes: ``Q`` predictions, ``G`` boxes of ground truth. Boxes are ``(cx, cy, w, h, θ)`` in pixels and radians.
"""

import math

import torch
from mmdet.models.task_modules.assigners.match_cost import BaseMatchCost
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from mmrotate.models.losses.gaussian_dist_loss import postprocess
from mmrotate.registry import TASK_UTILS
from mmrotate.structures.bbox import rbbox_overlaps
from torch import Tensor

from .angles import MIN_SIZE, box_factors
from .losses import angle_l1_term, check_angle_l1


@TASK_UTILS.register_module()
class RBoxL1Cost(BaseMatchCost):
    """L1 distance of normalized boxes, that of :class:`~mmplugins.o2detr.PeriodicRBoxL1Loss`.

    Args:
        angle_l1: ``'wrapped'`` or ``'plain'``; that of the loss.
        weight: Of this cost in the sum.
    """

    def __init__(self, angle_l1: str = 'wrapped', weight: float = 5.0) -> None:
        super().__init__(weight=weight)
        self.angle_l1 = check_angle_l1(angle_l1)

    def __call__(
        self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None = None, **kwargs
    ) -> Tensor:
        """Cost matrix.

        Args:
            pred_instances: ``bboxes`` ``(Q, 5)``.
            gt_instances: ``bboxes`` ``(G, 5)``, of the same angle convention if ``angle_l1='plain'``.
            img_meta: With ``img_shape``.
            **kwargs: Not used.

        Returns:
            ``(Q, G)``.
        """
        boxes = [get_box_tensor(x.bboxes) for x in (pred_instances, gt_instances)]
        pred, gt = (box / box_factors(img_meta['img_shape'], box) for box in boxes)
        angle = angle_l1_term(pred[:, None, 4], gt, self.angle_l1)
        return (torch.cdist(pred[:, :4], gt[:, :4], p=1) + angle) * self.weight


@TASK_UTILS.register_module()
class GDCost(BaseMatchCost):
    """Distance between the Gaussians of two boxes: that of the host's ``GDLoss`` of the same arguments.

    Args:
        loss_type: ``'kld'``, Kullback-Leibler divergence of the prediction from the ground truth, or ``'gwd'``,
            normalized Wasserstein distance.
        fun: ``'log1p'``, ``'sqrt'`` or ``'none'``.
        tau: ``1 - 1 / (tau + fun(d))`` from 1 on, else ``fun(d)``.
        sqrt: Whether ``fun`` gets the root of the divergence; ``'kld'`` only.
        weight: Of this cost in the sum.

    Raises:
        ValueError: ``loss_type`` or ``fun`` is none of these.
    """

    def __init__(
        self, loss_type: str = 'kld', fun: str = 'log1p', tau: float = 1.0, sqrt: bool = False, weight: float = 2.0
    ) -> None:
        super().__init__(weight=weight)
        distances = dict(kld=gaussian_kld, gwd=gaussian_wasserstein)
        if loss_type not in distances or fun not in ('log1p', 'sqrt', 'none'):
            raise ValueError(
                f"GDCost knows the loss_type 'kld', 'gwd' and the fun 'log1p', 'sqrt', 'none', "
                f'not {loss_type!r}, {fun!r}'
            )
        self.distance = distances[loss_type]
        self.root = loss_type == 'kld' and sqrt
        self.fun, self.tau = fun, tau

    def __call__(
        self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None = None, **kwargs
    ) -> Tensor:
        """Cost matrix.

        Args:
            pred_instances: ``bboxes`` ``(Q, 5)``.
            gt_instances: ``bboxes`` ``(G, 5)``.
            img_meta: Not used.
            **kwargs: Not used.

        Returns:
            ``(Q, G)``.
        """
        distance = self.distance(get_box_tensor(pred_instances.bboxes), get_box_tensor(gt_instances.bboxes))
        if self.root:
            distance = distance.clamp(1e-7).sqrt()
        return postprocess(distance, fun=self.fun, tau=self.tau) * self.weight


@TASK_UTILS.register_module()
class RotatedIoUCost(BaseMatchCost):
    """One minus the IoU of rotated boxes; unlike ``RotatedIoULoss`` it runs on a CPU.

    Args:
        weight: Of this cost in the sum.
    """

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__(weight=weight)

    def __call__(
        self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None = None, **kwargs
    ) -> Tensor:
        """Cost matrix.

        Args:
            pred_instances: ``bboxes`` ``(Q, 5)``.
            gt_instances: ``bboxes`` ``(G, 5)``.
            img_meta: Not used.
            **kwargs: Not used.

        Returns:
            ``(Q, G)``.
        """
        boxes = [get_box_tensor(x.bboxes).float() for x in (pred_instances, gt_instances)]
        return (1 - rbbox_overlaps(*boxes)) * self.weight


def _moments(boxes: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
    """Entries xx, xy, yy of ``R diag((w/2)^power, (h/2)^power) R^T``: covariance for 2, its inverse for -2."""
    long, short = ((boxes[:, i].clamp(min=MIN_SIZE) / 2) ** power for i in (2, 3))
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    return long * cos**2 + short * sin**2, (long - short) * cos * sin, long * sin**2 + short * cos**2


def _log_area(boxes: Tensor) -> Tensor:
    """Half the log determinant of the covariance."""
    return boxes[:, 2:4].clamp(min=MIN_SIZE).log().sum(-1) - math.log(4)


def gaussian_kld(pred: Tensor, gt: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the Gaussians of boxes, as in KLD (Yang et al., NeurIPS 2021).

    Args:
        pred: ``(Q, 5)``; its covariance is the one inverted.
        gt: ``(G, 5)``.

    Returns:
        ``(Q, G)``, from 0.
    """
    a, b, c = (entry[:, None] for entry in _moments(pred, -2))
    s_xx, s_xy, s_yy = _moments(gt, 2)
    dx, dy = (pred[:, None, :2] - gt[None, :, :2]).unbind(-1)
    center = a * dx**2 + 2 * b * dx * dy + c * dy**2
    trace = a * s_xx + 2 * b * s_xy + c * s_yy
    return ((center + trace) / 2 + _log_area(pred)[:, None] - _log_area(gt) - 1).clamp(min=0)


def gaussian_wasserstein(pred: Tensor, gt: Tensor) -> Tensor:
    """Wasserstein distance of the Gaussians of boxes over the fourth root of their areas, as in GWD (ICML 2021).

    Args:
        pred: ``(Q, 5)``.
        gt: ``(G, 5)``.

    Returns:
        ``(Q, G)``, from 0.
    """
    p_xx, p_xy, p_yy = (entry[:, None] for entry in _moments(pred, 2))
    g_xx, g_xy, g_yy = _moments(gt, 2)
    center = (pred[:, None, :2] - gt[None, :, :2]).square().sum(-1)
    roots = (_log_area(pred)[:, None] + _log_area(gt)).exp()
    cross = (p_xx * g_xx + 2 * p_xy * g_xy + p_yy * g_yy + 2 * roots).clamp(1e-7).sqrt()
    squared = center + p_xx + p_yy + g_xx + g_yy - 2 * cross
    return squared.clamp(1e-7).sqrt() / (2 * torch.sqrt(torch.sqrt(roots)))
