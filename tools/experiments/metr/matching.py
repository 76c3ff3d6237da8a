"""Group matching against one matching over all queries, and against brute force."""

import itertools

import numpy as np
import torch
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmplugins.metr.group_assigner import GroupHungarianAssigner

IMAGE_SIZE = 512.0  # pixels, of the boxes


def matching_case(
    num_images: int, groups: int, queries: int, max_boxes: int, device: str
) -> list[tuple[InstanceData, InstanceData, InstanceData]]:
    """Predictions for ours, the same for the baseline, and boxes of each image, from a seed.

    Args:
        num_images: Length of the list.
        groups: ``K`` categories.
        queries: ``Q`` of each.
        max_boxes: Of a category; each has 0 to so many.
        device: Of the tensors.
    """
    generator = torch.Generator().manual_seed(0)

    def boxes(count: int) -> Tensor:
        center, size = torch.rand(2, count, 2, generator=generator)
        size = size * 0.3 + 0.02
        return (torch.cat([center - size / 2, center + size / 2], dim=1) * IMAGE_SIZE).to(device)

    images = []
    for _ in range(num_images):
        of_query = torch.arange(groups, device=device).repeat_interleave(queries)
        logits = torch.randn(len(of_query), 1, generator=generator).to(device)
        counts = torch.randint(0, max_boxes + 1, (groups,), generator=generator)
        labels = torch.arange(groups).repeat_interleave(counts).to(device)
        ours = InstanceData(scores=logits, bboxes=boxes(len(of_query)), group_labels=of_query)
        scattered = torch.full((len(of_query), groups), -20.0, device=device).scatter(1, of_query[:, None], logits)
        plain = InstanceData(scores=scattered, bboxes=ours.bboxes)
        images.append((ours, plain, InstanceData(bboxes=boxes(len(labels)), labels=labels)))
    return images


def own_cost(logits: np.ndarray, pred: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """Focal, L1 and GIoU cost ``(queries, boxes)``, written from the formulas; boxes xyxy in pixels."""
    prob = 1 / (1 + np.exp(-logits.astype(np.float64)))
    focal = 0.25 * (1 - prob) ** 2 * -np.log(prob + 1e-12) - 0.75 * prob**2 * -np.log(1 - prob + 1e-12)
    pred, gt = pred[:, None].astype(np.float64), gt[None].astype(np.float64)

    def center_size(box: np.ndarray) -> np.ndarray:
        return np.concatenate([(box[..., :2] + box[..., 2:]) / 2, box[..., 2:] - box[..., :2]], -1) / IMAGE_SIZE

    def area(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.clip(high - low, 0, None).prod(-1)

    l1 = np.abs(center_size(pred) - center_size(gt)).sum(-1)
    both = area(np.maximum(pred[..., :2], gt[..., :2]), np.minimum(pred[..., 2:], gt[..., 2:]))
    union = area(pred[..., :2], pred[..., 2:]) + area(gt[..., :2], gt[..., 2:]) - both
    hull = area(np.minimum(pred[..., :2], gt[..., :2]), np.maximum(pred[..., 2:], gt[..., 2:]))
    return 2 * focal[:, None] + 5 * l1 - 2 * (both / union - (hull - union) / hull)


def check_matching(assigner: GroupHungarianAssigner, images: list, meta: dict, exhaustive: bool) -> None:
    """Compare with an assignment per group on costs of our own: scipy's, or every permutation.

    Raises:
        AssertionError: Another matching is better.
    """
    for pred, _, gt in images:
        found = assigner.assign(pred, gt, meta).gt_inds.cpu().numpy()
        groups, labels = pred.group_labels.cpu().numpy(), gt.labels.cpu().numpy()
        for label in np.unique(groups):
            rows, columns = np.flatnonzero(groups == label), np.flatnonzero(labels == label)
            cost = own_cost(*(x.cpu().numpy() for x in (pred.scores[rows, 0], pred.bboxes[rows], gt.bboxes[columns])))
            if exhaustive:
                orders = itertools.permutations(range(len(rows)), len(columns))
                best = min(cost[list(order), range(len(columns))].sum() for order in orders)
            else:
                best = cost[linear_sum_assignment(cost)].sum()
            matched = np.flatnonzero(found[rows])
            position = np.searchsorted(columns, found[rows][matched] - 1)
            ok = len(matched) == min(cost.shape) and np.isin(found[rows][matched] - 1, columns).all()
            if not ok or abs(cost[matched, position].sum() - best) > 1e-4:
                raise AssertionError(f'the matching of group {label} is not the best one')
