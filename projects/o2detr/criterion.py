"""What a head of rotated boxes learns, for O²DETR (arXiv 2106.03146): matching, and the losses of what was matched.

The paper's losses are not known; see the head. Queries of the decoder are matched one to one, tokens of the encoder one
to many, denoising queries are made of the boxes that they learn.

Shapes: ``B`` images, ``N`` tokens, ``M`` queries, ``P`` denoising queries among them, ``C`` classes, ``D`` channels,
``G`` true boxes, ``K`` decoder layers.
"""

from collections.abc import Sequence

import torch
from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.models.utils import multi_apply
from mmdet.structures import SampleList
from mmdet.utils import InstanceList, OptInstanceList, reduce_mean
from mmengine.structures import InstanceData
from mmrotate.models.losses import GDLoss, RotatedIoULoss
from torch import Tensor

from .angles import MIN_SIZE, box_factors, clamp_sides
from .denoising import denoising_targets
from .match_costs import assign_cheapest
from .targets import prepare_gt, score_targets


class RotatedDETRLosses(DeformableDETRHead):
    """The losses of :class:`~.head.O2DETRHead`, whose arguments it reads."""

    def prepare_gt(self, gt_instances: InstanceData, img_meta: dict) -> InstanceData:
        """See :func:`~.targets.prepare_gt`."""
        return prepare_gt(gt_instances, img_meta, self.num_classes, self.min_gt_size)

    def loss(
        self,
        hidden_states: Tensor,
        references: list[Tensor],
        enc_outputs_class: Tensor | None,
        enc_outputs_coord: Tensor | None,
        batch_data_samples: SampleList,
        dn_meta: dict | None = None,
    ) -> dict[str, Tensor]:
        """As the host's, with denoising queries.

        Args:
            hidden_states: ``(K, B, M, D)``; denoising queries come first.
            references: See :meth:`forward`.
            enc_outputs_class: ``(B, N, C)``, or None.
            enc_outputs_coord: ``(B, N, 5)``, or None.
            batch_data_samples: With ``gt_instances``.
            dn_meta: From :class:`~.denoising.RotatedCdnQueryGenerator`, or None without denoising queries.

        Returns:
            See :meth:`loss_by_feat`.
        """
        gts, metas = zip(*((sample.gt_instances, sample.metainfo) for sample in batch_data_samples), strict=True)
        outputs = self(hidden_states, references)
        return self.loss_by_feat(*outputs, enc_outputs_class, enc_outputs_coord, gts, metas, dn_meta=dn_meta)

    def loss_dn(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        batch_img_metas: list[dict],
        dn_meta: dict,
    ) -> dict[str, Tensor]:
        """Losses of denoising queries ``(K, B, P, ...)``, whose targets are known."""
        num_groups = dn_meta['num_denoising_groups']
        largest = dn_meta['num_denoising_queries'] // (2 * num_groups)
        labels, positions, true_boxes = [], [], []
        for gt, meta in zip(dn_meta['dn_instances'], batch_img_metas, strict=True):
            label, position = denoising_targets(gt, largest, num_groups, self.num_classes)
            labels.append(label)
            positions.append(position)
            true_boxes.append((gt.bboxes / box_factors(meta['img_shape'], gt.bboxes)).repeat(num_groups, 1))
        losses, last = {}, len(all_layers_cls_scores) - 1
        for index, layer in enumerate(zip(all_layers_cls_scores, all_layers_bbox_preds, strict=True)):
            found = self._losses(*layer, labels, positions, true_boxes, batch_img_metas)
            prefix = 'dn_' if index == last else f'd{index}.dn_'
            losses.update(zip((f'{prefix}loss_{name}' for name in ('cls', 'bbox', 'iou')), found, strict=True))
        return losses

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        enc_cls_scores: Tensor | None,
        enc_bbox_preds: Tensor | None,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
        dn_meta: dict | None = None,
    ) -> dict[str, Tensor]:
        """Losses of all layers, after one look at the ground truth.

        Args:
            all_layers_cls_scores: ``(K, B, M, C)`` logits.
            all_layers_bbox_preds: ``(K, B, M, 5)`` normalized boxes.
            enc_cls_scores: ``(B, N, C)`` logits of the tokens of a two-stage detector, or None.
            enc_bbox_preds: ``(B, N, 5)`` normalized boxes of the tokens, or None.
            batch_gt_instances: ``bboxes`` ``(G, 5)`` in pixels, ``labels`` ``(G,)``; they are not changed.
            batch_img_metas: With ``img_shape``.
            batch_gt_instances_ignore: None.
            dn_meta: See :meth:`loss`.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``loss_iou``, those of the other layers as ``d0.loss_cls``, of the tokens as
            ``enc_loss_cls`` and of denoising queries as ``dn_loss_cls``.

        Raises:
            ValueError: A label is not below ``num_classes``, or boxes are not rotated ones.
        """
        pairs = zip(batch_gt_instances, batch_img_metas, strict=True)
        gts = dn_meta['gt_instances'] if dn_meta else [self.prepare_gt(*pair) for pair in pairs]
        layers = all_layers_cls_scores.float(), all_layers_bbox_preds.float()
        count = dn_meta['num_denoising_queries'] if dn_meta else 0
        losses = super().loss_by_feat(*(layer[:, :, count:] for layer in layers), None, None, gts, batch_img_metas)
        if dn_meta:
            losses.update(self.loss_dn(*(layer[:, :, :count] for layer in layers), batch_img_metas, dn_meta))
        if enc_cls_scores is not None:
            # The host teaches the tokens where any object is, in the logit of the first class.
            tokens = enc_cls_scores.float(), enc_bbox_preds.float()
            found = self.loss_by_feat_single(*tokens, gts, batch_img_metas, self.tokens_per_gt)
            losses.update(zip(('enc_loss_cls', 'enc_loss_bbox', 'enc_loss_iou'), found, strict=True))
        return losses

    def loss_by_feat_single(
        self,
        cls_scores: Tensor,
        bbox_preds: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        num_per_gt: int = 1,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of one decoder layer, or of the tokens.

        Args:
            cls_scores: ``(B, M, C)`` logits.
            bbox_preds: ``(B, M, 5)`` normalized boxes.
            batch_gt_instances: From :func:`~.targets.prepare_gt`.
            batch_img_metas: With ``img_shape``.
            num_per_gt: Predictions that each true box teaches; 1 for the assigner.

        Returns:
            Classification, L1 and Gaussian (or IoU) loss.
        """
        targets = multi_apply(
            self._get_targets_single,
            cls_scores,
            bbox_preds,
            batch_gt_instances,
            batch_img_metas,
            num_per_gt=num_per_gt,
        )
        return self._losses(cls_scores, bbox_preds, *targets, batch_img_metas)

    def _losses(
        self,
        cls_scores: Tensor,
        bbox_preds: Tensor,
        labels: Sequence[Tensor],
        positions: Sequence[Tensor],
        true_boxes: Sequence[Tensor],
        batch_img_metas: list[dict],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of predictions ``(B, M, ...)`` whose targets are known, see :meth:`_get_targets_single`."""
        num_queries = bbox_preds.size(1)
        matched = torch.cat([index + image * num_queries for image, index in enumerate(positions)])
        pairs = bbox_preds.flatten(0, 1)[matched], torch.cat(true_boxes)
        num_pos = reduce_mean(cls_scores.new_full((), len(matched))).clamp(min=1)  # stays on the device
        loss_bbox = self.loss_bbox(*pairs, avg_factor=num_pos)

        # The Gaussian loss is in pixels. In float32 the determinant of a thin slanted box is lost: at 1000 x 0.3 pixels
        # it may be negative, and the loss is not a number.
        dtype = torch.float64 if isinstance(self.loss_iou, GDLoss) else bbox_preds.dtype
        factors = torch.stack([box_factors(meta['img_shape'], bbox_preds) for meta in batch_img_metas])
        factors = factors.repeat_interleave(num_queries, dim=0)[matched]
        pred_boxes, true_boxes = (clamp_sides(boxes.to(dtype) * factors, MIN_SIZE) for boxes in pairs)
        if isinstance(self.loss_iou, RotatedIoULoss) and not pred_boxes.is_cuda:
            raise RuntimeError('RotatedIoULoss has no CPU code in mmcv: train on CUDA or use GDLoss')
        if len(true_boxes):
            loss_iou = self.loss_iou(pred_boxes, true_boxes, avg_factor=num_pos).to(loss_bbox.dtype)
        else:
            loss_iou = bbox_preds.sum() * 0

        cls_targets = score_targets(self.loss_cls, torch.cat(labels), matched, pred_boxes, true_boxes, self.num_classes)
        cls_factor = num_pos if self.sync_cls_avg_factor else max(len(matched), 1)
        if cls_scores.numel():
            loss_cls = self.loss_cls(cls_scores.flatten(0, 1), cls_targets, avg_factor=cls_factor)
        else:  # denoising of a batch without objects; mmcv's focal loss stops at nothing on CUDA
            loss_cls = cls_scores.sum() * 0
        return loss_cls, loss_bbox, loss_iou

    def _get_targets_single(
        self, cls_score: Tensor, bbox_pred: Tensor, gt_instances: InstanceData, img_meta: dict, num_per_gt: int = 1
    ) -> tuple[Tensor, ...]:
        """Match the queries of one image; as the host's, with rotated boxes.

        Args:
            cls_score: ``(M, C)`` logits.
            bbox_pred: ``(M, 5)`` normalized boxes.
            gt_instances: From :func:`~.targets.prepare_gt`.
            img_meta: With ``img_shape``.
            num_per_gt: See :meth:`loss_by_feat_single`.

        Returns:
            Labels ``(M,)``, ``num_classes`` for none, positions of the matched queries ``(Q,)``, and the normalized
            boxes ``(Q, 5)`` that they are matched to.
        """
        factors = box_factors(img_meta['img_shape'], bbox_pred)
        pred_instances = InstanceData(scores=cls_score, bboxes=bbox_pred * factors)
        if num_per_gt == 1:
            assigned = self.assigner.assign(pred_instances, gt_instances, img_meta).gt_inds
        else:
            assigned = assign_cheapest(self.assigner.match_costs, pred_instances, gt_instances, img_meta, num_per_gt)
        positions = (assigned > 0).nonzero().squeeze(1)
        matched = assigned[positions] - 1
        labels = assigned.new_full((len(bbox_pred),), self.num_classes)
        labels[positions] = gt_instances.labels[matched]
        return labels, positions, gt_instances.bboxes[matched] / factors
