"""Head of O²DETR (arXiv 2106.03146): classes and rotated boxes of each query, matched one to one, no NMS.

Only "DETR", "oriented" and "deformable" are public about this head; losses, weights and the coding of a box are our
decisions, near to those of public rotated DETRs (ai4rs, Apache-2.0), whose errors with anisotropic scales and with
boxes longer than an image it does not have.

Shapes: ``B`` images, ``M`` queries, ``C`` classes, ``D`` channels, ``G`` true boxes, ``K`` decoder layers.
"""

import torch
from mmcv.cnn import Linear
from mmcv.ops import batched_nms
from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.models.utils import multi_apply
from mmdet.utils import InstanceList, OptInstanceList, reduce_mean
from mmengine.structures import InstanceData
from mmrotate.models.losses import GDLoss, RotatedIoULoss
from mmrotate.registry import MODELS
from torch import Tensor

from .angles import MIN_SIZE, box_factors, check_angle_version, clamp_sides, refine_boxes, regularize, scale_boxes
from .match_costs import assign_cheapest
from .targets import prepare_gt, score_targets


@MODELS.register_module()
class O2DETRHead(DeformableDETRHead):
    """Focal classification, L1 and Gaussian loss of rotated boxes.

    Args:
        num_classes: ``C``.
        angle_version: ``'le180'``, θ in [0, π), or ``'le90'``, θ in [-π/2, π/2); of the predicted boxes. The ground
            truth may come in any.
        min_gt_size: Sides of the ground truth, in pixels, are at least this in the targets: the inverse covariance of
            a degenerate box explodes (mmrotate #988).
        loss_cls: A loss with a sigmoid; ``QualityFocalLoss`` or ``VarifocalLoss`` for scores that know the IoU.
        loss_bbox: Of normalized boxes.
        loss_iou: Of boxes in pixels: ``GDLoss`` or, on CUDA, ``RotatedIoULoss``.
        embed_dims: ``D``.
        num_reg_fcs: Hidden layers of the box branch.
        tokens_per_gt: Of a two-stage detector. Each true box teaches so many tokens of the encoder, the cheapest by the
            costs of the assigner; 1 for the assigner itself. More than an object covers are learned slowly.
        sync_cls_avg_factor: Whether the classification loss is divided by the mean number of matched queries over all
            GPUs, as the other losses are.
        **kwargs: Of the host's ``DeformableDETRHead``. ``test_cfg.max_per_img`` may exceed ``M C``; ``test_cfg.nms``,
            e.g. ``dict(type='nms_rotated', iou_threshold=0.1)``, is for those who want it: a DETR has none.

    Raises:
        ValueError: Unknown angle version, or a classification loss without sigmoid.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        angle_version: str = 'le180',
        min_gt_size: float = 1.0,
        loss_cls: dict = dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),  # noqa: B006
        loss_bbox: dict = dict(type='mmrotate.PeriodicRBoxL1Loss', loss_weight=5.0),  # noqa: B006
        loss_iou: dict = dict(  # noqa: B006
            type='mmrotate.GDLoss', loss_type='kld', fun='log1p', tau=1.0, sqrt=False, loss_weight=2.0
        ),
        embed_dims: int = 256,
        num_reg_fcs: int = 2,
        tokens_per_gt: int = 8,
        sync_cls_avg_factor: bool = True,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        self.angle_version = check_angle_version(angle_version)
        self.min_gt_size = min_gt_size
        self.tokens_per_gt = tokens_per_gt
        super().__init__(
            num_classes=num_classes,
            embed_dims=embed_dims,
            num_reg_fcs=num_reg_fcs,
            loss_cls=loss_cls,
            loss_bbox=loss_bbox,
            loss_iou=loss_iou,
            sync_cls_avg_factor=sync_cls_avg_factor,
            train_cfg=train_cfg,
            test_cfg=test_cfg or {},
            **kwargs,
        )
        if not self.loss_cls.use_sigmoid:
            raise ValueError(f'O2DETRHead scores each class by itself: loss_cls needs use_sigmoid=True, not {loss_cls}')

    def _init_layers(self) -> None:
        super()._init_layers()
        for branch in self.reg_branches:
            # Shared branches are one object: the second visit changes nothing.
            if branch[-1].out_features != 6:
                branch[-1] = Linear(self.embed_dims, 6)

    def init_weights(self) -> None:
        """As Deformable DETR's; boxes start unturned."""
        super().init_weights()
        for branch in self.reg_branches:
            branch[-1].bias.data[4:] = torch.tensor([1.0, 0.0])

    def forward(self, hidden_states: Tensor, references: list[Tensor], **kwargs) -> tuple[Tensor, Tensor]:
        """Classes and boxes of all layers.

        Args:
            hidden_states: ``(K, B, M, D)``.
            references: What each layer's boxes start from, ``(B, M, 2)`` or ``(B, M, 5)``, and that after the last.
            **kwargs: Proposals of a two-stage detector in training, which the loss uses.

        Returns:
            Logits ``(K, B, M, C)`` and normalized boxes ``(K, B, M, 5)``.
        """
        logits = [branch(state) for branch, state in zip(self.cls_branches, hidden_states, strict=False)]
        boxes = [
            refine_boxes(branch(state), reference)
            for branch, state, reference in zip(self.reg_branches, hidden_states, references, strict=False)
        ]
        return torch.stack(logits), torch.stack(boxes)

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        enc_cls_scores: Tensor | None,
        enc_bbox_preds: Tensor | None,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
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

        Returns:
            ``loss_cls``, ``loss_bbox``, ``loss_iou``, those of the other layers as ``d0.loss_cls``, and of the tokens
            as ``enc_loss_cls``.

        Raises:
            ValueError: A label is not below ``num_classes``, or boxes are not rotated ones.
        """
        pairs = zip(batch_gt_instances, batch_img_metas, strict=True)
        gts = [prepare_gt(gt, meta, self.num_classes, self.min_gt_size) for gt, meta in pairs]
        losses = super().loss_by_feat(
            all_layers_cls_scores.float(), all_layers_bbox_preds.float(), None, None, gts, batch_img_metas
        )
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
        labels, positions, true_boxes = multi_apply(
            self._get_targets_single,
            cls_scores,
            bbox_preds,
            batch_gt_instances,
            batch_img_metas,
            num_per_gt=num_per_gt,
        )
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
        loss_cls = self.loss_cls(cls_scores.flatten(0, 1), cls_targets, avg_factor=cls_factor)
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

    def _predict_by_feat_single(
        self, cls_score: Tensor, bbox_pred: Tensor, img_meta: dict, rescale: bool = True
    ) -> InstanceData:
        """Best pairs of query and class of one image; rotated NMS if ``test_cfg`` has ``nms``.

        Args:
            cls_score: ``(M, C)`` logits.
            bbox_pred: ``(M, 5)`` normalized boxes.
            img_meta: ``img_shape`` and, to rescale, ``scale_factor``.
            rescale: Whether boxes are those of the original image.

        Returns:
            ``bboxes`` ``(n, 5)``, a plain tensor, ``scores`` and ``labels`` ``(n,)``.
        """
        scores = cls_score.float().sigmoid().flatten()
        scores, best = scores.topk(min(self.test_cfg.get('max_per_img', len(cls_score)), len(scores)))
        boxes, labels = self.decode_boxes(bbox_pred[best // self.num_classes], img_meta), best % self.num_classes
        if nms := self.test_cfg.get('nms'):
            kept = batched_nms(boxes, scores, labels, nms)[1]
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        if rescale:
            boxes = self.rescale_boxes(boxes, img_meta)
        return InstanceData(bboxes=boxes, scores=scores, labels=labels)

    def decode_boxes(self, bbox_pred: Tensor, img_meta: dict) -> Tensor:
        """Return boxes in pixels of the network's input, centers inside the image.

        Sides are not clamped to the image: a long slanted box may exceed it.

        Args:
            bbox_pred: ``(M, 5)`` normalized boxes.
            img_meta: With ``img_shape``.

        Returns:
            ``(M, 5)``, in the convention of the head.
        """
        height, width = img_meta['img_shape'][:2]
        boxes = bbox_pred.float()
        x, y, rest = (boxes * box_factors((height, width), boxes)).split([1, 1, 3], dim=-1)
        boxes = torch.cat([x.clamp(0, width), y.clamp(0, height), rest], dim=-1)
        return regularize(clamp_sides(boxes, MIN_SIZE), self.angle_version)

    def rescale_boxes(self, boxes: Tensor, img_meta: dict) -> Tensor:
        """Return boxes of the original image; width and height may have been scaled differently.

        Args:
            boxes: ``(n, 5)`` in pixels of the network's input.
            img_meta: With ``scale_factor``, of width and height.

        Raises:
            KeyError: There is no ``scale_factor``.
        """
        if 'scale_factor' not in img_meta:
            raise KeyError("rescaling needs 'scale_factor' in the meta keys of PackDetInputs")
        factors = [1 / factor for factor in img_meta['scale_factor'][:2]]
        return regularize(scale_boxes(boxes, factors), self.angle_version)
