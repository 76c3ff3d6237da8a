"""Costs between all predicted and all true rotated boxes, for a Hungarian matching (O²DETR, arXiv 2106.03146).

The hosts have none for rotated boxes. Each equals the loss of the same name, pair by pair (tests compare); that of the
IoU is ``RotatedIoULoss(mode='linear')``, while the default of the host's loss is a logarithm. The Gaussian
ones are written out, which is exact where determinants of 2x2 matrices cancel, and takes matrices of ``(Q, G)`` numbers
and not ``Q G`` matrices.

Shapes: ``Q`` predictions, ``G`` boxes of ground truth. Boxes are ``(cx, cy, w, h, θ)`` in pixels and radians.
"""

from collections.abc import Sequence

import torch
from mmdet.models.task_modules.assigners.match_cost import BaseMatchCost
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from mmrotate.models.losses.gaussian_dist_loss import postprocess
from mmrotate.registry import TASK_UTILS
from mmrotate.structures.bbox import rbbox_overlaps
from torch import Tensor

from .angles import MIN_SIZE, box_factors
from .losses import angle_l1_term, check_angle_l1, forms_of


@TASK_UTILS.register_module()
class RBoxL1Cost(BaseMatchCost):
    """L1 distance of normalized boxes, that of :class:`~mmplugins.o2detr.PeriodicRBoxL1Loss`.

    Args:
        angle_l1: ``'nearer'``, ``'wrapped'`` or ``'plain'``; that of the loss.
        weight: Of this cost in the sum.
    """

    def __init__(self, angle_l1: str = 'nearer', weight: float = 5.0) -> None:
        super().__init__(weight=weight)
        self.angle_l1 = check_angle_l1(angle_l1)

    def __call__(
        self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None = None, **kwargs
    ) -> Tensor:
        """Cost matrix.

        Args:
            pred_instances: ``bboxes`` ``(Q, 5)``.
            gt_instances: ``bboxes`` ``(G, 5)``, both with θ in [0, π) if ``angle_l1='plain'``.
            img_meta: With ``img_shape``.
            **kwargs: Not used.

        Returns:
            ``(Q, G)``.
        """
        boxes = [get_box_tensor(x.bboxes) for x in (pred_instances, gt_instances)]
        pred, gt = (box / box_factors(img_meta['img_shape'], box) for box in boxes)
        costs = [
            torch.cdist(pred[:, :4], form[:, :4], p=1) + angle_l1_term(pred[:, None, 4], form, self.angle_l1)
            for form in forms_of(gt, self.angle_l1)
        ]
        return torch.stack(costs).amin(0) * self.weight


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

    mmcv's IoU is wrong for some pairs of boxes whose corners coincide to 0.01 pixels (mmcv #2621: 0.33 instead of 1;
    one pair of eight where the angles differ by π). Predictions of a network are hardly ever that near.

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


@torch.no_grad()
def assign_cheapest(
    match_costs: Sequence[BaseMatchCost],
    pred_instances: InstanceData,
    gt_instances: InstanceData,
    img_meta: dict,
    num: int,
) -> Tensor:
    """Give each true box the predictions that are cheapest for it: one to many.

    A prediction that several boxes want goes to the one for which it is cheaper. Not a Hungarian matching of repeated
    boxes: with 20,000 tokens and hundreds of objects that takes minutes.

    Args:
        match_costs: Whose sum counts.
        pred_instances: ``bboxes`` ``(Q, 5)``, ``scores`` ``(Q, C)``.
        gt_instances: ``bboxes`` ``(G, 5)``, ``labels`` ``(G,)``.
        img_meta: With ``img_shape``.
        num: Predictions a box, as far as there are so many.

    Returns:
        ``(Q,)``: number of the true box from 1 on, 0 for none.
    """
    number = len(pred_instances)
    if not len(gt_instances):
        return gt_instances.labels.new_zeros(number)
    cost = sum(match_cost(pred_instances, gt_instances, img_meta) for match_cost in match_costs)
    wanted = cost.topk(min(num, number), dim=0, largest=False)
    kept = torch.full_like(cost, torch.inf).scatter(0, wanted.indices, wanted.values)
    cheapest, box = kept.min(dim=1)
    return torch.where(cheapest.isfinite(), box + 1, 0)


def _squares_and_turn(pred: Tensor, gt: Tensor) -> tuple[Tensor, ...]:
    """Squared sides of both, ``(Q, 1)`` twice and ``(G,)`` twice, and the squared sine of the turn, ``(Q, G)``."""
    sides = [boxes[:, 2:4].clamp(min=MIN_SIZE).square().unbind(1) for boxes in (pred, gt)]
    sin2 = (pred[:, None, 4] - gt[:, 4]).sin().square()
    return sides[0][0][:, None], sides[0][1][:, None], *sides[1], sin2


def gaussian_kld(pred: Tensor, gt: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the Gaussians of boxes, as in KLD (Yang et al., NeurIPS 2021).

    Args:
        pred: ``(Q, 5)``; its covariance is the one inverted.
        gt: ``(G, 5)``.

    Returns:
        ``(Q, G)``, from 0.
    """
    pw, ph, gw, gh, sin2 = _squares_and_turn(pred, gt)
    dx, dy = (pred[:, None, :2] - gt[:, :2]).unbind(-1)
    cos, sin = pred[:, 4:].cos(), pred[:, 4:].sin()
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    center = 4 * (along.square() / pw + across.square() / ph)
    trace = (gw / pw + gh / ph) * (1 - sin2) + (gh / pw + gw / ph) * sin2
    return ((center + trace + (pw * ph).log() - (gw * gh).log()) / 2 - 1).clamp(min=0)


def gaussian_wasserstein(pred: Tensor, gt: Tensor) -> Tensor:
    """Wasserstein distance of the Gaussians of boxes over a mean size of both, as in GWD (Yang et al., ICML 2021).

    Args:
        pred: ``(Q, 5)``.
        gt: ``(G, 5)``.

    Returns:
        ``(Q, G)``, from 0.
    """
    pw, ph, gw, gh, sin2 = _squares_and_turn(pred, gt)
    center = (pred[:, None, :2] - gt[:, :2]).square().sum(-1)
    trace = ((pw * gw + ph * gh) * (1 - sin2) + (pw * gh + ph * gw) * sin2) / 16
    root = (pw * ph * gw * gh).sqrt() / 16  # of the product of both determinants
    squared = center + (pw + ph + gw + gh) / 4 - 2 * (trace + 2 * root).sqrt()
    return squared.clamp(1e-7).sqrt() / (2 * root.sqrt().sqrt())
