"""Contrastive denoising that keeps to the groups of METR.

The released METR copies DINO's denoising queries into every category group but writes positives into one group only.
Not in the paper, our decision: only boxes of kept categories are noised, each denoising query carries the vector of its
box's category, and it sees only denoising queries of the same category and the same denoising group. They stand beside
the category groups and not inside each, which needs ``K`` times fewer queries; the price is that, unlike in DINO, they
do not see the matching queries.

Shapes: ``B`` images, ``P`` denoising queries, ``V`` names, ``D`` channels.
"""

import torch
from mmdet.models.layers import CdnQueryGenerator
from mmdet.structures import SampleList
from torch import Tensor

from .losses import image_size


class GroupCdnQueryGenerator(CdnQueryGenerator):
    """Noised boxes with the content ``e_dn + z_k``; labels are not flipped, because the group fixes them.

    Args:
        embed_dims: ``D``.
        box_noise_scale: As in DINO.
        group_cfg: As in DINO: ``dict(dynamic=True, num_dn_queries=100)``. If an image has more boxes than
            ``num_dn_queries``, that many of them are drawn at random.
    """

    def __init__(self, embed_dims: int, box_noise_scale: float = 1.0, group_cfg: dict | None = None) -> None:
        # One row of the host's label embedding serves as e_dn: its size does not depend on the vocabulary.
        super().__init__(
            num_classes=1,
            embed_dims=embed_dims,
            num_matching_queries=0,
            label_noise_scale=0.0,
            box_noise_scale=box_noise_scale,
            group_cfg=group_cfg,
        )

    def drawn(self, index: Tensor) -> Tensor:
        """Return at most ``num_dn_queries`` of the boxes ``(G,)`` of an image, in their order.

        The host makes a pair of queries of each box at least: a thousand boxes are 2,000 queries, and a mask of four
        million entries for each head.
        """
        limit = self.num_dn_queries if self.dynamic_dn_groups else len(index)
        if len(index) <= limit:
            return index
        return index[torch.randperm(len(index), device=index.device)[:limit].sort().values]

    def __call__(
        self, batch_data_samples: SampleList, class_vectors: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor, dict]:
        """Make the denoising queries of a batch.

        Args:
            batch_data_samples: With ``gt_instances`` (boxes xyxy in pixels, labels are rows of the vocabulary).
            class_vectors: ``(B, V, D)``.
            kept: ``(B, V)`` bool, the kept names.

        Returns:
            Content ``(B, P, D)``, reference boxes before the sigmoid ``(B, P, 4)`` cxcywh, and ``dn_meta`` with

            - ``num_denoising_queries`` ``P`` and ``num_denoising_groups``;
            - ``gt_inds (B, P)``: 1-based index of the box to restore, 0 for a negative, -1 for padding;
            - ``class_vectors (B, P, D)``;
            - ``attn_mask (B, P, P)`` bool, True where attention is forbidden.
        """
        boxes, labels, indices = [], [], []
        for sample, kept_V in zip(batch_data_samples, kept, strict=True):
            gt = sample.gt_instances
            index = self.drawn(kept_V[gt.labels].nonzero().flatten())
            boxes.append(gt.bboxes[index] / image_size(sample.metainfo, gt.bboxes))
            labels.append(gt.labels[index])
            indices.append(index)
        max_boxes = max(len(index) for index in indices)
        num_groups = self.get_num_groups(max_boxes)
        batch_idx = torch.cat([torch.full_like(index, i) for i, index in enumerate(indices)])
        # The host's layout: positives of group 0, its negatives, positives of group 1, …
        repeats = 2 * num_groups
        # `.float()`: the host collates into float32 also under AMP.
        vectors = class_vectors.float()[batch_idx, torch.cat(labels)].repeat(repeats, 1)
        vectors, references = self.collate_dn_queries(
            vectors, self.generate_dn_bbox_query(torch.cat(boxes), num_groups), batch_idx, len(boxes), num_groups
        )

        slots = torch.full((len(boxes), repeats, max_boxes), -1, dtype=torch.long, device=kept.device)
        slot_labels = slots.clone()
        for i, (index, label) in enumerate(zip(indices, labels, strict=True)):
            slots[i, 0::2, : len(index)] = index + 1
            slots[i, 1::2, : len(index)] = 0
            slot_labels[i, :, : len(index)] = label
        groups = torch.arange(repeats, device=kept.device).div(2, rounding_mode='floor')
        groups = groups[:, None].expand(-1, max_boxes).flatten()
        slot_labels = slot_labels.flatten(1)
        same = (slot_labels[:, :, None] == slot_labels[:, None, :]) & (groups[:, None] == groups[None, :])
        dn_meta = dict(
            num_denoising_queries=repeats * max_boxes,
            num_denoising_groups=num_groups,
            gt_inds=slots.flatten(1),
            class_vectors=vectors,
            attn_mask=~same,
        )
        return vectors + self.label_embedding(groups.new_zeros(())), references, dn_meta
