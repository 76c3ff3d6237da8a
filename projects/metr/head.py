"""Head of METR, arXiv 2304.03580: one logit a query, "is there an object of my category here?".

Losses and their weights follow the released code: focal loss over all queries of all groups, L1 and GIoU on matched
queries, all divided by the number of boxes.

Shapes: ``L`` decoder layers, ``B`` images, ``P`` denoising queries, ``K`` groups of ``Q`` queries, ``M = P + K Q``,
``V`` names, ``D`` channels. Boxes are cxcywh in [0, 1] of the unpadded image unless said otherwise.
"""

import copy

import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.models.layers import inverse_sigmoid
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from mmdet.utils import InstanceList, reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .cem import Categories
from .text.classifier import LanguageClassifier

FOCAL_COSTS = [
    dict(type='FocalLossCost', weight=2.0),
    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.0),
]


@MODELS.register_module()
class METRHead(DINOHead):
    """Language (binary) classification, boxes, group matching.

    The last entry of ``cls_branches`` and ``reg_branches`` serves the encoder's proposals.

    Args:
        share_layers: One classifier and one box branch for all decoder layers, as in the released code. False gives
            each layer its own, as in mmdet's DINO.
        num_cls_fcs: Layers of the decoder's classifier; 2 in the released code. The proposals' classifier is linear.
        prior_prob: Start probability of a query; DINO's 0.01, the paper's is not known.
        train_cfg: ``assigner`` (groups) and ``proposal_assigner`` (encoder proposals, matched over the vocabulary).
        test_cfg: ``max_per_img``; ``score_fusion`` (default False): multiply scores by the category's CEM probability.
        **kwargs: Of the host's head. ``num_classes`` is 1 by construction; ``loss_cls`` is a focal loss of weight 2.
    """

    def __init__(
        self,
        share_layers: bool = True,
        num_cls_fcs: int = 2,
        prior_prob: float = 0.01,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        self.share_layers = share_layers
        self.num_cls_fcs = num_cls_fcs
        self.prior_prob = prior_prob
        # The detector hands over None when its own config has no train_cfg.
        train_cfg = train_cfg or {}
        train_cfg = dict(
            assigner=train_cfg.get('assigner') or dict(type='GroupHungarianAssigner', match_costs=FOCAL_COSTS),
            proposal_assigner=train_cfg.get('proposal_assigner')
            or dict(type='HungarianAssigner', match_costs=FOCAL_COSTS),
        )
        kwargs.setdefault('num_classes', 1)
        # The host's own default is a softmax loss.
        kwargs.setdefault('loss_cls', dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0))
        if kwargs['num_classes'] != 1:
            raise ValueError(
                'METRHead classifies queries as object or not: num_classes must be 1, not '
                f'{kwargs["num_classes"]}. The classes are those of `vocabulary`.'
            )
        super().__init__(train_cfg=train_cfg, test_cfg=test_cfg or dict(max_per_img=300), **kwargs)
        self.proposal_assigner = TASK_UTILS.build(train_cfg['proposal_assigner'])

    def _init_layers(self) -> None:
        super()._init_layers()
        classifier = LanguageClassifier(self.embed_dims, self.num_cls_fcs, self.prior_prob)
        num_layers = self.num_pred_layer - 1
        if self.share_layers:
            layers = [classifier] * num_layers
            boxes = [self.reg_branches[0]] * num_layers
        else:
            layers = [copy.deepcopy(classifier) for _ in range(num_layers)]
            boxes = list(self.reg_branches[:num_layers])
        proposals = LanguageClassifier(self.embed_dims, 1, self.prior_prob)
        self.cls_branches = nn.ModuleList([*layers, proposals])
        self.reg_branches = nn.ModuleList([*boxes, self.reg_branches[-1]])

    def init_weights(self) -> None:
        """Host's box branches; classifiers start at ``prior_prob``."""
        super().init_weights()
        for branch in self.cls_branches.children():
            branch.init_weights()

    def forward(
        self, hidden_states: Tensor, references: list[Tensor], categories: Categories, dn_meta: dict | None = None
    ) -> tuple[Tensor, Tensor]:
        """Classify and refine.

        Args:
            hidden_states: ``(L, B, M, D)``.
            references: ``L + 1`` of ``(B, M, 4)``, the input references of the layers and a last one, not used.
            categories: The batch's kept names.
            dn_meta: See :class:`GroupCdnQueryGenerator`.

        Returns:
            Logits ``(L, B, M, 1)`` and boxes ``(L, B, M, 4)``.
        """
        num_dn = 0 if dn_meta is None else dn_meta['num_denoising_queries']
        kept = categories.kept_vectors
        num_queries = (hidden_states.size(2) - num_dn) // kept.size(1)
        vectors = kept.repeat_interleave(num_queries, dim=1)
        if num_dn:
            vectors = torch.cat([dn_meta['class_vectors'], vectors], dim=1)
        logits, boxes = [], []
        for layer, hidden in enumerate(hidden_states):
            logits.append(self.cls_branches[layer](hidden, vectors)[..., None])
            boxes.append((self.reg_branches[layer](hidden) + inverse_sigmoid(references[layer])).sigmoid())
        return torch.stack(logits), torch.stack(boxes)

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

        losses = {}
        last = len(all_layers_cls_scores) - 1
        for layer, (scores, boxes) in enumerate(
            zip(all_layers_cls_scores.float(), all_layers_bbox_preds.float(), strict=True)
        ):
            prefix = '' if layer == last else f'd{layer}.'
            dn_scores, scores = scores[:, :num_dn], scores[:, num_dn:]
            dn_boxes, boxes = boxes[:, :num_dn], boxes[:, num_dn:]
            gt_inds = self._assign(self.assigner, scores, boxes, *batch, group_labels)
            losses.update(self._loss(scores, boxes, gt_inds, *batch, avg_factor, prefix))
            if num_dn:
                losses.update(
                    self._loss(
                        dn_scores,
                        dn_boxes,
                        dn_meta['gt_inds'],
                        *batch,
                        avg_factor * dn_meta['num_denoising_groups'],
                        f'{prefix}dn_',
                    )
                )
        enc_scores, enc_boxes = enc_cls_scores.float(), enc_bbox_preds.float()
        allowed_gt = [
            gt[allowed[gt.labels]] for gt, allowed in zip(batch_gt_instances, categories.allowed, strict=True)
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
            )
        )
        return losses

    @staticmethod
    def group_labels(categories: Categories, num_queries: int) -> Tensor:
        """The category of each query, -1 in the groups that an image does not use.

        Args:
            categories: The batch's kept names.
            num_queries: ``K Q``.

        Returns:
            ``(B, K Q)`` rows of the vocabulary.
        """
        labels = categories.keep.masked_fill(~categories.valid, -1)
        return labels.repeat_interleave(num_queries // labels.size(1), dim=1)

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
                scores=cls_scores[i], bboxes=bbox_cxcywh_to_xyxy(bbox_preds[i]) * _image_size(meta, bbox_preds)
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
            class_weight: ``(B, 1, V)``, 0 at names that the image's data set does not annotate. None: one class.
        """
        targets = torch.zeros_like(cls_scores)
        weight = (gt_inds >= 0)[..., None].to(cls_scores)
        weight = weight.expand_as(targets) if class_weight is None else weight * class_weight
        pred, target, size = [], [], []
        for i, (gt, meta) in enumerate(zip(batch_gt_instances, batch_img_metas, strict=True)):
            queries = (gt_inds[i] > 0).nonzero().flatten()
            matched = gt_inds[i, queries] - 1
            targets[i, queries, 0 if class_weight is None else gt.labels[matched]] = 1
            pred.append(bbox_preds[i, queries])
            target.append(bbox_xyxy_to_cxcywh(gt.bboxes[matched] / _image_size(meta, bbox_preds)))
            size.append(_image_size(meta, bbox_preds).expand(len(queries), 4))
        pred, target, size = torch.cat(pred), torch.cat(target), torch.cat(size)
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

    def predict(
        self,
        hidden_states: Tensor,
        references: list[Tensor],
        categories: Categories,
        batch_data_samples: SampleList,
        rescale: bool = True,
    ) -> InstanceList:
        """Detections of the last layer; no ground truth is read.

        Args:
            hidden_states: See :meth:`forward`.
            references: See :meth:`forward`.
            categories: See :meth:`forward`.
            batch_data_samples: For their image sizes.
            rescale: Whether boxes are in pixels of the original image.

        Returns:
            One an image: ``bboxes (n, 4)`` xyxy in pixels inside the image, ``scores (n,)`` in [0, 1] descending,
            ``labels (n,)`` rows of the vocabulary; ``n`` is ``max_per_img``, or the number of queries if that is less.
        """
        logits, boxes = self(hidden_states, references, categories)
        scores = logits[-1, ..., 0].float().sigmoid()
        labels = self.group_labels(categories, scores.size(1))
        if self.test_cfg.get('score_fusion', False):
            presence = categories.logits[-1].float().sigmoid()
            scores = scores * presence.gather(1, labels.clamp(min=0))
        # -1 marks the queries of unused groups: they come last and are cut off.
        scores = scores.masked_fill(labels < 0, -1)
        return [
            self._predict_single(*prediction, sample.metainfo, rescale)
            for *prediction, sample in zip(scores, labels, boxes[-1].float(), batch_data_samples, strict=True)
        ]

    def _predict_single(self, scores: Tensor, labels: Tensor, boxes: Tensor, meta: dict, rescale: bool) -> InstanceData:
        num_kept = min(self.test_cfg.get('max_per_img', 300), int((labels >= 0).sum()))
        scores, index = scores.topk(num_kept)
        boxes = bbox_cxcywh_to_xyxy(boxes[index]) * _image_size(meta, boxes)
        height, width = meta['img_shape'][:2]
        if rescale:
            boxes = boxes / boxes.new_tensor(meta['scale_factor']).repeat(2)
            height, width = meta['ori_shape'][:2]
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
        return InstanceData(bboxes=boxes, scores=scores, labels=labels[index])


def _image_size(meta: dict, like: Tensor) -> Tensor:
    """``(w, h, w, h)`` of the unpadded network input, pixels."""
    height, width = meta['img_shape'][:2]
    return like.new_tensor([width, height, width, height])
