"""Losses of METR's head, arXiv 2304.03580: each group is matched and judged by itself.

They and their weights follow the released code: focal loss over all queries of all groups, L1 and GIoU on matched
queries, all divided by the number of boxes.

Shapes: ``L`` decoder layers, ``B`` images, ``P`` denoising queries, ``K`` groups of ``Q`` queries, ``M = P + K Q``,
``V`` names, ``D`` channels. Boxes are cxcywh in [0, 1] of the unpadded image unless said otherwise.
"""

import math

import torch
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from mmdet.utils import InstanceList, reduce_mean
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .cem import Categories


class GroupLosses:
    """Losses of decoder, encoder proposals and denoising, for a head that has what :class:`METRHead` has.

    Called of the head: ``forward`` and ``group_labels``, ``assigner`` (groups) and ``proposal_assigner``, ``loss_cls``,
    ``loss_bbox``, ``loss_iou``.
    """

    num_crowded = 0  # images with more boxes of a name than queries

    def loss(
        self,
        hidden_states: Tensor,
        references: list[Tensor],
        categories: Categories,
        enc_outputs_class: Tensor,
        enc_outputs_coord: Tensor,
        batch_data_samples: SampleList,
        dn_meta: dict | None = None,
    ) -> dict[str, Tensor]:
        """Losses of decoder, encoder proposals and denoising.

        Args:
            hidden_states: See :meth:`forward`.
            references: See :meth:`forward`.
            categories: See :meth:`forward`.
            enc_outputs_class: ``(B, Q, V)`` logits of the proposals.
            enc_outputs_coord: ``(B, Q, 4)`` boxes of the proposals.
            batch_data_samples: With ``gt_instances``; labels are rows of the vocabulary.
            dn_meta: See :meth:`forward`.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``loss_iou`` of the last layer, ``d<i>.`` of the earlier ones, ``enc_`` of the
            proposals and ``dn_`` of denoising.
        """
        gt = [sample.gt_instances for sample in batch_data_samples]
        metas = [sample.metainfo for sample in batch_data_samples]
        logits, boxes = self(hidden_states, references, categories, dn_meta)
        return self.loss_by_feat(logits, boxes, enc_outputs_class, enc_outputs_coord, gt, metas, dn_meta, categories)

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        enc_cls_scores: Tensor,
        enc_bbox_preds: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        dn_meta: dict | None,
        categories: Categories,
        avg_factor: float | None = None,
    ) -> dict[str, Tensor]:
        """As :meth:`loss`, from the outputs of :meth:`forward`.

        Args:
            all_layers_cls_scores: ``(L, B, M, 1)``.
            all_layers_bbox_preds: ``(L, B, M, 4)``.
            enc_cls_scores: ``(B, Q, V)``.
            enc_bbox_preds: ``(B, Q, 4)``.
            batch_gt_instances: One an image.
            batch_img_metas: One an image.
            dn_meta: See :meth:`forward`.
            categories: See :meth:`forward`.
            avg_factor: Number of boxes to divide by; default: the mean over ranks of the batch's number, at least 1.
        """
        num_dn = 0 if dn_meta is None else dn_meta['num_denoising_queries']
        if avg_factor is None:
            num_boxes = all_layers_cls_scores.new_tensor([sum(len(gt) for gt in batch_gt_instances)], dtype=torch.float)
            avg_factor = max(reduce_mean(num_boxes).item(), 1.0)
        batch = (batch_gt_instances, batch_img_metas)
        group_labels = self.group_labels(categories, all_layers_cls_scores.size(2) - num_dn)
        # The assigner reads them on the CPU, in each layer.
        to_match = [InstanceData(bboxes=gt.bboxes, labels=gt.labels.cpu()) for gt in batch_gt_instances]
        labels_to_match = group_labels.cpu()
        self._count_crowded(to_match, group_labels.size(1) // categories.keep.size(1))
        dn_matched = dn_meta and (dn_meta['gt_inds'] > 0).nonzero(as_tuple=True)
        exhaustive = categories.exhaustive
        negatives = None if exhaustive is None else exhaustive.gather(1, group_labels.clamp(min=0))[..., None]

        losses = {}
        last = len(all_layers_cls_scores) - 1
        for layer, (scores, boxes) in enumerate(
            zip(all_layers_cls_scores.float(), all_layers_bbox_preds.float(), strict=True)
        ):
            prefix = '' if layer == last else f'd{layer}.'
            dn_scores, scores = scores[:, :num_dn], scores[:, num_dn:]
            dn_boxes, boxes = boxes[:, :num_dn], boxes[:, num_dn:]
            gt_inds = self._assign(self.assigner, scores, boxes, to_match, batch_img_metas, labels_to_match)
            losses.update(self._loss(scores, boxes, gt_inds, *batch, avg_factor, prefix, negatives=negatives))
            if num_dn:
                losses.update(
                    self._loss(
                        dn_scores,
                        dn_boxes,
                        dn_meta['gt_inds'],
                        *batch,
                        avg_factor * dn_meta['num_denoising_groups'],
                        f'{prefix}dn_',
                        matched=dn_matched,
                    )
                )
        enc_scores, enc_boxes = enc_cls_scores.float(), enc_bbox_preds.float()
        allowed_gt = [
            gt[allowed[gt.labels].nonzero().flatten()]
            for gt, allowed in zip(batch_gt_instances, categories.allowed, strict=True)
        ]
        gt_inds = self._assign(self.proposal_assigner, enc_scores, enc_boxes, allowed_gt, batch_img_metas)
        losses.update(
            self._loss(
                enc_scores,
                enc_boxes,
                gt_inds,
                allowed_gt,
                batch_img_metas,
                avg_factor,
                'enc_',
                categories.allowed[:, None],
                None if exhaustive is None else exhaustive[:, None],
            )
        )
        return losses

    def _count_crowded(self, batch_gt_instances: InstanceList, num_queries: int) -> None:
        """Say, at the 1st, 10th, 100th, … image of a kind, that it has boxes that no query is left for."""
        for gt in batch_gt_instances:
            most = int(gt.labels.bincount().max()) if len(gt) else 0
            if most <= num_queries:
                continue
            self.num_crowded += 1
            if math.log10(self.num_crowded).is_integer():
                MMLogger.get_current_instance().warning(
                    f'{self.num_crowded} images so far have more boxes of one name than num_queries={num_queries}, '
                    f'this one {most}; the boxes that fit worst are not trained. Raise num_queries.'
                )

    @staticmethod
    @torch.no_grad()
    def _assign(
        assigner,
        cls_scores: Tensor,
        bbox_preds: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        group_labels: Tensor | None = None,
    ) -> Tensor:
        """``(B, M)``: 1-based box of each query, 0 for a negative, -1 for an ignored query."""
        gt_inds = []
        for i, (gt, meta) in enumerate(zip(batch_gt_instances, batch_img_metas, strict=True)):
            pred = InstanceData(
                scores=cls_scores[i], bboxes=bbox_cxcywh_to_xyxy(bbox_preds[i]) * image_size(meta, bbox_preds)
            )
            if group_labels is not None:
                pred.group_labels = group_labels[i]
            gt_inds.append(assigner.assign(pred_instances=pred, gt_instances=gt, img_meta=meta).gt_inds)
        return torch.stack(gt_inds)

    def _loss(
        self,
        cls_scores: Tensor,
        bbox_preds: Tensor,
        gt_inds: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        avg_factor: float,
        prefix: str,
        class_weight: Tensor | None = None,
        negatives: Tensor | None = None,
        matched: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Focal, L1 and GIoU loss of one set of queries.

        Args:
            cls_scores: ``(B, M, C)``; ``C`` is 1, or ``V`` for proposals.
            bbox_preds: ``(B, M, 4)``.
            gt_inds: ``(B, M)``, see :meth:`_assign`.
            batch_gt_instances: One an image.
            batch_img_metas: One an image.
            avg_factor: Divisor.
            prefix: Of the losses' names.
            class_weight: ``(B, 1, V)``, 0 at names that are not annotated in the image. None: one class.
            negatives: Bool, broadcastable to ``(B, M, C)``: where a negative counts, ``exhaustive`` of
                :class:`Categories`. None: everywhere.
            matched: Images and queries with a box, each ``(P,)``, if they are known.
        """
        images, queries = (gt_inds > 0).nonzero(as_tuple=True) if matched is None else matched
        index = gt_inds[images, queries] - 1
        labels = pad_sequence([gt.labels for gt in batch_gt_instances], batch_first=True)[images, index]
        boxes = pad_sequence([gt.bboxes for gt in batch_gt_instances], batch_first=True)[images, index]
        size = torch.stack([image_size(meta, bbox_preds) for meta in batch_img_metas])[images]
        pred, target = bbox_preds[images, queries], bbox_xyxy_to_cxcywh(boxes / size)
        targets = torch.zeros_like(cls_scores)
        weight = (gt_inds >= 0)[..., None].to(cls_scores)
        weight = weight.expand_as(targets) if class_weight is None else weight * class_weight
        targets[images, queries, 0 if class_weight is None else labels] = 1
        if negatives is not None:
            weight = weight * (negatives | (targets > 0))
        num_classes = targets.size(-1)
        return {
            f'{prefix}loss_cls': self.loss_cls(
                cls_scores.reshape(-1, num_classes),
                targets.view(-1, num_classes),
                weight.reshape(-1, num_classes),
                avg_factor=avg_factor,
            ),
            f'{prefix}loss_bbox': self.loss_bbox(pred, target, avg_factor=avg_factor),
            f'{prefix}loss_iou': self.loss_iou(
                bbox_cxcywh_to_xyxy(pred) * size, bbox_cxcywh_to_xyxy(target) * size, avg_factor=avg_factor
            ),
        }


def image_size(meta: dict, like: Tensor) -> Tensor:
    """``(w, h, w, h)`` of the unpadded network input, pixels."""
    height, width = meta['img_shape'][:2]
    # Filled in on the device: a list would be copied there, and the host would wait.
    size = like.new_full((4,), width)
    size[1::2] = height
    return size
