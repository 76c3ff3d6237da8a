"""Contrastive denoising of rotated boxes: a teacher of the decoder that needs no matching.

Not in the paper. As in DINO (Zhang et al., ICLR 2023), queries made of true boxes with noise learn to restore them, and
queries of more noise that there is no object. The noise moves the edges of a rectangle in its own frame, and turns it.

Shapes: ``B`` images, ``G`` true boxes of an image, or the most of the batch, ``P`` denoising queries, ``M`` others,
``D`` channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet.models.layers import CdnQueryGenerator
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn.functional import pad

from .angles import box_factors


class RotatedCdnQueryGenerator(CdnQueryGenerator):
    """Queries of rotated boxes with noise.

    A group holds each true box twice, first with little noise, then with much. As many groups are made as
    ``group_cfg`` of the host says; images with fewer boxes than the largest of the batch are filled up. If an image has
    more boxes than ``num_dn_queries`` of dynamic groups, that many of them are drawn at random, as in METR: the host
    makes a pair of queries of each, and patches of DOTA have up to 2,000. Static groups (``num_groups``) take all.

    Args:
        angle_noise_scale: 1 turns a box of little noise by up to 45°.
        **kwargs: Of the host: ``num_classes``, ``embed_dims``, ``num_matching_queries``, ``label_noise_scale``,
            ``box_noise_scale``, ``group_cfg``.
    """

    def __init__(self, *, angle_noise_scale: float = 0.25, **kwargs) -> None:
        super().__init__(**kwargs)
        self.angle_noise_scale = angle_noise_scale

    def __call__(
        self, gts: Sequence[InstanceData], img_shapes: Sequence[Sequence[int]], num_matching_queries: int
    ) -> tuple[Tensor, Tensor, Tensor, dict]:
        """Make queries.

        Args:
            gts: Of each image, from :func:`~.targets.prepare_gt`.
            img_shapes: Height and width of the images without padding.
            num_matching_queries: ``M`` of this batch.

        Returns:
            Embedded labels ``(B, P, D)``; normalized boxes ``(B, P, 5)``; :func:`denoising_mask`; and
            ``num_denoising_queries`` ``P``, ``num_denoising_groups``, ``gt_instances``, which are ``gts``, and
            ``dn_instances``, those of them that became queries.
        """
        all_gts, gts = gts, [self.drawn(gt) for gt in gts]
        largest = max(len(gt.labels) for gt in gts)
        num_groups = self.get_num_groups(largest)
        labels = torch.stack([pad(gt.labels, (0, largest - len(gt.labels))) for gt in gts])
        boxes = torch.stack([pad(gt.bboxes, (0, 0, 0, largest - len(gt.labels)), value=1.0) for gt in gts])
        factors = torch.stack([box_factors(img_shape, boxes) for img_shape in img_shapes])
        noisy = self.generate_dn_bbox_query(boxes, num_groups) / factors[:, None]
        noisy = torch.cat([noisy[..., :4].clamp(0, 1), noisy[..., 4:] - noisy[..., 4:].floor()], dim=-1)
        count = 2 * largest * num_groups
        dn_meta = dict(
            num_denoising_queries=count, num_denoising_groups=num_groups, gt_instances=all_gts, dn_instances=gts
        )
        mask = denoising_mask(largest, num_groups, num_matching_queries, labels.device)
        return self.generate_dn_label_query(labels, num_groups), noisy, mask, dn_meta

    def drawn(self, gt: InstanceData) -> InstanceData:
        """Return at most ``num_dn_queries`` of the boxes of an image."""
        if not self.dynamic_dn_groups or len(gt.labels) <= self.num_dn_queries:
            return gt
        return gt[torch.randperm(len(gt.labels), device=gt.labels.device)[: self.num_dn_queries]]

    def generate_dn_label_query(self, gt_labels: Tensor, num_groups: int) -> Tensor:
        """Exchange labels for random ones, of half of ``label_noise_scale`` of them; a GPU is not waited for.

        Args:
            gt_labels: ``(B, G)``.
            num_groups: Of denoising queries.

        Returns:
            ``(B, 2 G num_groups, D)``, embedded.
        """
        labels = gt_labels.repeat(1, 2 * num_groups)
        changed = torch.rand(labels.shape, device=labels.device) < self.label_noise_scale / 2
        return self.label_embedding(torch.where(changed, torch.randint_like(labels, self.num_classes), labels))

    def generate_dn_bbox_query(self, gt_bboxes: Tensor, num_groups: int) -> Tensor:
        """Move the edges of boxes, in their own frame, and turn them.

        An edge moves by up to ``box_noise_scale`` halves of the side, where there is more noise by one to two times as
        much; likewise an angle by ``angle_noise_scale`` times 45°.

        Args:
            gt_bboxes: ``(B, G, 5)`` in pixels.
            num_groups: Of denoising queries.

        Returns:
            ``(B, 2 G num_groups, 5)`` in pixels; any angle.
        """
        boxes = gt_bboxes[:, None].repeat(1, num_groups, 2, 1)
        noise = torch.rand_like(boxes)
        noise[:, :, gt_bboxes.size(1) :] += 1
        noise = noise * (2 * torch.randint_like(noise, 2) - 1)
        center, sides, angle = boxes.split([2, 2, 1], dim=-1)
        low = sides / 2 * (noise[..., :2] * self.box_noise_scale - 1)
        high = sides / 2 * (noise[..., 2:4] * self.box_noise_scale + 1)
        along, across = ((low + high) / 2).split(1, dim=-1)
        cos, sin = angle.cos(), angle.sin()
        center = center + torch.cat([along * cos - across * sin, along * sin + across * cos], dim=-1)
        turned = angle + noise[..., 4:] * self.angle_noise_scale * math.pi / 4
        return torch.cat([center, (high - low).abs(), turned], dim=-1).flatten(1, 2)


def denoising_mask(largest: int, num_groups: int, num_matching_queries: int, device: torch.device) -> Tensor:
    """Where queries must not look: at other groups, and those that are matched at any group.

    Args:
        largest: Most boxes of an image.
        num_groups: Of denoising queries.
        num_matching_queries: ``M``.
        device: Of the mask.

    Returns:
        ``(P + M, P + M)``, True where a query must not look.
    """
    count = 2 * largest * num_groups
    group = torch.arange(count + num_matching_queries, device=device) // max(2 * largest, 1)
    group[count:] = num_groups
    return (group[:, None] != group) & (group < num_groups)


def denoising_targets(gt: InstanceData, largest: int, num_groups: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """What the denoising queries of an image learn.

    Args:
        gt: From :func:`~.targets.prepare_gt`.
        largest: Most boxes of an image of the batch.
        num_groups: Of denoising queries.
        num_classes: ``C``, the label of no object.

    Returns:
        Labels ``(P,)``, and positions ``(num_groups G,)`` of the queries of true boxes, group by group.
    """
    labels = gt.labels.new_full((num_groups, 2 * largest), num_classes)
    labels[:, : len(gt.labels)] = gt.labels
    starts = torch.arange(num_groups, device=labels.device)[:, None] * 2 * largest
    positions = starts + torch.arange(len(gt.labels), device=labels.device)
    return labels.flatten(), positions.flatten()
