"""Head of O²DETR (arXiv 2106.03146): classes and rotated boxes of each query, matched one to one, no NMS.

Only "DETR", "oriented" and "deformable" are public about this head; losses, weights and the coding of a box are our
decisions, near to those of public rotated DETRs (ai4rs, Apache-2.0), whose errors with anisotropic scales it does not
have. No predicted side exceeds the longer side of the image, which a sigmoid times it gives.

Shapes: ``B`` images, ``M`` queries, ``C`` classes, ``D`` channels, ``G`` true boxes, ``K`` decoder layers.
"""

import torch
from mmcv.cnn import Linear
from mmcv.ops import batched_nms
from mmengine.structures import InstanceData
from mmrotate.registry import MODELS
from torch import Tensor

from .angles import MIN_SIZE, box_factors, check_angle_version, clamp_sides, refine_boxes, regularize, scale_boxes
from .criterion import RotatedDETRLosses


@MODELS.register_module()
class O2DETRHead(RotatedDETRLosses):
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

        Boxes are not clamped to the image: a slanted one near a corner may exceed it. Sides are at most the longer side
        of the image.

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
