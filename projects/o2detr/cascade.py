"""Cascaded fine-tuning of O²DETR (arXiv 2106.03146): a rotated RoI head on its boxes.

The abstract: "by fine-tuning the head mounted on O²DETR in a cascaded architecture". What that head is, is not public.
Ours: the best boxes of a trained O²DETR are the proposals of rotated RoIAlign and S stages of two fully connected
layers, each refining the boxes of the one before; rotated NMS, here only, because RoI heads answer many to one. A score
is the geometric mean of the base's and the RoI head's, as in probabilistic two-stage detection (arXiv 2103.07461): the
base has compared its boxes with each other, the RoI head has looked at each alone. A survey lists 12 more epochs, and
maps of an FPN in one variant.

Shapes: ``B`` images, ``M`` queries, ``R`` proposals, ``D`` channels.
"""

import torch
from mmdet.models.layers import multiclass_nms
from mmdet.structures import DetDataSample, OptSampleList, SampleList
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import ConfigType, InstanceList, OptConfigType
from mmengine.structures import InstanceData
from mmrotate.registry import MODELS
from mmrotate.structures import RotatedBoxes
from torch import Tensor

from .angles import regularize
from .detector import O2DETR
from .targets import prepare_gt

MOUNTED = ('roi_head', 'roi_neck')


@MODELS.register_module()
class O2DETRCascade(O2DETR):
    """O²DETR with a rotated RoI head mounted on it; loads a checkpoint of :class:`O2DETR` (``load_from``).

    To fine-tune the base too, at a tenth of the rate of the head::

        model = dict(finetune_base=True)
        optim_wrapper = dict(
            optimizer=dict(lr=1e-5),  # of the base
            paramwise_cfg=dict(custom_keys={'roi_head': dict(lr_mult=10), 'roi_neck': dict(lr_mult=10)}))

    Args:
        neck: Config of the base's neck, e.g. ``mmdet.ChannelMapper`` or ``mmdet.FPN``.
        roi_head: Config of mmdet's ``CascadeRoIHead``, any number of stages, with ``RotatedSingleRoIExtractor`` and box
            heads of ``predict_box_type='rbox'``.
        num_proposals: ``R``; all ``M`` if there are fewer.
        base_score_weight: Weight of the base's scores in the geometric mean, of 0 (those of the RoI head alone, as in
            mmdet's Cascade R-CNN) to 1. Not in the paper: our decision, chosen on held-out training pictures.
        finetune_base: Whether the base network learns on, from its own losses and those of the RoI head. Without it the
            base has no gradients and stays in evaluation mode.
        roi_neck: Config of a neck on all maps of the backbone, e.g. ``mmdet.FPN``, whose maps the RoI head reads; None
            for the maps of the base's neck. Beside it the base's neck reads the last maps of the backbone, as many as
            it has ``in_channels``.
        train_cfg: ``assigner`` of the base and ``rcnn``, a list of one config a stage.
        test_cfg: ``max_per_img`` of the base and ``rcnn`` with score threshold, rotated NMS and ``max_per_img``.
        *args: Of :class:`O2DETR`.
        **kwargs: Of :class:`O2DETR`.

    Raises:
        ValueError: A stage differs from the base in its number of classes, does not predict rotated boxes, codes them
            in OpenCV's convention, or has no training config; or ``base_score_weight`` is not in [0, 1].
    """

    def __init__(
        self,
        *args,
        neck: ConfigType,
        roi_head: ConfigType,
        num_proposals: int = 500,
        base_score_weight: float = 0.5,
        finetune_base: bool = False,
        roi_neck: OptConfigType = None,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, neck=neck, train_cfg=train_cfg, test_cfg=test_cfg, **kwargs)
        stages = (train_cfg or {}).get('rcnn')
        if train_cfg and (not isinstance(stages, list | tuple) or len(stages) != roi_head['num_stages']):
            raise ValueError(
                f"train_cfg['rcnn'] must be a list of one config for each of {roi_head['num_stages']} stages"
            )
        if 'rcnn' not in (test_cfg or {}):
            raise ValueError("test_cfg['rcnn'] is missing: score_thr, nms, max_per_img of the RoI head")
        if not 0 <= base_score_weight <= 1:
            raise ValueError(f'base_score_weight={base_score_weight}; from 0 (the RoI head alone) to 1')
        self.num_proposals, self.base_score_weight = num_proposals, base_score_weight
        self.finetune_base = finetune_base
        self.roi_head = MODELS.build({**roi_head, 'train_cfg': stages, 'test_cfg': test_cfg['rcnn']})
        self.roi_neck = None if roi_neck is None else MODELS.build(roi_neck)
        self.read_by_neck = slice(None) if roi_neck is None else slice(-len(neck['in_channels']), None)
        self._check_stages()
        if not finetune_base:
            for child in self._base_children():
                child.requires_grad_(False)
            self.level_embed.requires_grad_(False)

    def _check_stages(self) -> None:
        for index, stage in enumerate(self.roi_head.bbox_head):
            if stage.num_classes != self.bbox_head.num_classes:
                raise ValueError(
                    f'stage {index} of the RoI head has {stage.num_classes} classes, '
                    f'the base {self.bbox_head.num_classes}'
                )
            if stage.predict_box_type != 'rbox':
                raise ValueError(f"stage {index} of the RoI head needs predict_box_type='rbox'")
            if getattr(stage.bbox_coder, 'angle_version', None) == 'oc':
                raise ValueError(f"the bbox_coder of stage {index} needs angle_version='le90', not 'oc'")

    def _base_children(self) -> list[torch.nn.Module]:
        return [child for name, child in self.named_children() if name not in (*MOUNTED, 'data_preprocessor')]

    def train(self, mode: bool = True) -> 'O2DETRCascade':
        """Set the mode; a frozen base stays in evaluation mode, without dropout and with its statistics as they are."""
        super().train(mode)
        if not self.finetune_base:
            for child in self._base_children():
                child.eval()
        return self

    def extract_feat(self, batch_inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Maps for the base and for the RoI head.

        Args:
            batch_inputs: ``(B, 3, H, W)``.

        Returns:
            Two tuples of maps ``(B, D, H_l, W_l)``.
        """
        with torch.set_grad_enabled(self.finetune_base and torch.is_grad_enabled()):
            maps = self.backbone(batch_inputs)
            base_maps = self.neck(maps[self.read_by_neck])
        roi_maps = base_maps if self.roi_neck is None else self.roi_neck(maps)
        return base_maps, tuple(x.float() for x in roi_maps)  # mmcv's RoIAlignRotated knows no bfloat16

    def forward_base(
        self, base_maps: tuple[Tensor, ...], batch_data_samples: OptSampleList
    ) -> tuple[dict, InstanceList]:
        """Run the base.

        Args:
            base_maps: From :meth:`extract_feat`.
            batch_data_samples: As of the host.

        Returns:
            Arguments of the base's head, and for each image ``bboxes``, rotated boxes ``(R, 5)`` in pixels of the
            input, ``scores`` and ``labels`` ``(R,)``, best first, and the scores of all classes, ``cls_scores``
            ``(R, C)``. Each query gives one proposal, of its best class.
        """
        with torch.set_grad_enabled(self.finetune_base and torch.is_grad_enabled()):
            head_inputs = self.forward_transformer(base_maps, batch_data_samples)
        with torch.no_grad():
            logits, boxes = self.bbox_head(**head_inputs)
        if 'dn_meta' in head_inputs:  # queries made of true boxes propose nothing
            first = head_inputs['dn_meta']['num_denoising_queries']
            logits, boxes = logits[:, :, first:], boxes[:, :, first:]
        proposals = []
        for logit, box, sample in zip(logits[-1].float(), boxes[-1], batch_data_samples, strict=True):
            cls_scores = logit.sigmoid()
            scores, labels = cls_scores.max(-1)
            scores, best = scores.topk(min(self.num_proposals, len(scores)))
            found = RotatedBoxes(self.bbox_head.decode_boxes(box[best], sample.metainfo))
            proposals.append(
                InstanceData(bboxes=found, scores=scores, labels=labels[best], cls_scores=cls_scores[best])
            )
        return head_inputs, proposals

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of the stages, and of the base if it learns.

        Args:
            batch_inputs: ``(B, 3, H, W)``.
            batch_data_samples: With ``gt_instances``.

        Returns:
            ``s0.loss_cls``, ``s0.loss_bbox``, …, and those of :class:`O2DETRHead`.
        """
        base_maps, roi_maps = self.extract_feat(batch_inputs)
        head_inputs, proposals = self.forward_base(base_maps, batch_data_samples)
        losses = self.roi_head.loss(roi_maps, proposals, [self._roi_sample(sample) for sample in batch_data_samples])
        if self.finetune_base:
            losses.update(self.bbox_head.loss(**head_inputs, batch_data_samples=batch_data_samples))
        return losses

    def _roi_sample(self, sample: DetDataSample) -> DetDataSample:
        """Ground truth as the base's head sees it: a degenerate box has an infinite delta."""
        head = self.bbox_head
        prepared = prepare_gt(sample.gt_instances, sample.metainfo, head.num_classes, head.min_gt_size)
        new = DetDataSample(metainfo=sample.metainfo)
        new.gt_instances = InstanceData(bboxes=RotatedBoxes(prepared.bboxes), labels=prepared.labels)
        if 'ignored_instances' in sample:
            new.ignored_instances = sample.ignored_instances
        return new

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """Scores averaged over the stages and with those of the base, boxes of the last stage, rotated NMS.

        Args:
            batch_inputs: ``(B, 3, H, W)``.
            batch_data_samples: With the metainfo of the images.
            rescale: Whether boxes are those of the original images.

        Returns:
            The samples with ``pred_instances``: ``bboxes`` ``(n, 5)``, a plain tensor in the convention of the base's
            head, ``scores`` and ``labels`` ``(n,)``.
        """
        base_maps, roi_maps = self.extract_feat(batch_inputs)
        _, proposals = self.forward_base(base_maps, batch_data_samples)
        metas = [sample.metainfo for sample in batch_data_samples]
        # Not rescaled by the host: its rotated boxes are wrong where width and height are scaled differently. Without a
        # config of the test it returns every proposal, with the scores of all classes.
        refined = self.roi_head.predict_bbox(roi_maps, metas, proposals, rcnn_test_cfg=None, rescale=False)
        results = [self._detections(*pair) for pair in zip(refined, proposals, strict=True)]
        for result, meta in zip(results, metas, strict=True):
            boxes = regularize(result.bboxes, self.bbox_head.angle_version)
            result.bboxes = self.bbox_head.rescale_boxes(boxes, meta) if rescale else boxes
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _detections(self, refined: InstanceData, proposals: InstanceData) -> InstanceData:
        """Detections of an image from its refined proposals, with the scores of both."""
        cfg, weight = self.test_cfg['rcnn'], self.base_score_weight
        scores = refined.scores.clone()  # the last class is background
        scores[:, :-1] = scores[:, :-1] ** (1 - weight) * proposals.cls_scores**weight
        boxes, labels = multiclass_nms(
            get_box_tensor(refined.bboxes), scores, cfg['score_thr'], cfg['nms'], cfg['max_per_img'], box_dim=5
        )
        return InstanceData(bboxes=boxes[:, :5], scores=boxes[:, 5], labels=labels)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> tuple:
        """Class scores ``(R, C + 1)`` and deltas of the last stage for each image, without post-processing."""
        base_maps, roi_maps = self.extract_feat(batch_inputs)
        if batch_data_samples is None:
            shape = dict(img_shape=batch_inputs.shape[-2:], batch_input_shape=batch_inputs.shape[-2:])
            batch_data_samples = [DetDataSample(metainfo=shape) for _ in batch_inputs]
        _, proposals = self.forward_base(base_maps, batch_data_samples)
        return self.roi_head.forward(roi_maps, proposals, batch_data_samples)
