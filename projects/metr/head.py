"""Head of METR, arXiv 2304.03580: one logit a query, "is there an object of my category here?".

Classifiers, box branches and predictions; the losses are in :mod:`mmplugins.metr.losses`.

Shapes: ``L`` decoder layers, ``B`` images, ``P`` denoising queries, ``K`` groups of ``Q`` queries, ``M = P + K Q``,
``V`` names, ``D`` channels. Boxes are cxcywh in [0, 1] of the unpadded image unless said otherwise.
"""

import copy

import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.models.layers import inverse_sigmoid
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .cem import Categories
from .losses import GroupLosses, image_size
from .text.classifier import LanguageClassifier

FOCAL_COSTS = [
    dict(type='FocalLossCost', weight=2.0),
    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.0),
]
FOCAL_LOSS = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0)


@MODELS.register_module()
class METRHead(GroupLosses, DINOHead):
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
        kwargs.setdefault('loss_cls', FOCAL_LOSS)
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
        boxes = bbox_cxcywh_to_xyxy(boxes[index]) * image_size(meta, boxes)
        height, width = meta['img_shape'][:2]
        if rescale:
            boxes = boxes / boxes.new_tensor(meta['scale_factor']).repeat(2)
            height, width = meta['ori_shape'][:2]
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        return InstanceData(bboxes=boxes, scores=scores, labels=labels[index])
