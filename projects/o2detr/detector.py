"""O²DETR: oriented object detection with transformer, arXiv 2106.03146.

``backbone → neck → encoder of depthwise separable convolutions → deformable decoder → class and rotated box a query``

The abstract: end to end, no rotated anchors, attention of the encoder replaced by depthwise separable convolution. The
rest is ours, on the model of Deformable DETR, as which a leaderboard lists the method.

Shapes: ``B`` images, ``N`` memory tokens of ``L`` levels, ``M`` queries, ``D`` channels.
"""

import torch
from mmdet.models.detectors import DeformableDETR
from mmdet.models.layers import DeformableDetrTransformerEncoder, SinePositionalEncoding, inverse_sigmoid
from mmdet.structures import DetDataSample, OptSampleList, SampleList
from mmdet.utils import ConfigType, OptConfigType
from mmengine.model import BaseModule
from mmrotate.registry import MODELS
from torch import Tensor, nn

from .angles import circular, refine_boxes
from .decoder import O2DETRDecoder
from .denoising import RotatedCdnQueryGenerator
from .encoder import DepthwiseSeparableMixer, DWSepEncoder, NoEncoder
from .head import O2DETRHead
from .proposals import distinct_tokens

ENCODERS = dict(dwsep=DWSepEncoder, deformable=DeformableDetrTransformerEncoder, none=NoEncoder)


def build_encoder(cfg: ConfigType) -> BaseModule:
    """Build an encoder.

    Args:
        cfg: ``type`` is ``'dwsep'`` (default) for O²DETR's, ``'deformable'`` for mmdet's deformable encoder, which
            makes a rotated Deformable DETR, or ``'none'``. The other keys are arguments of :class:`DWSepEncoder`,
            mmdet's ``DeformableDetrTransformerEncoder`` or :class:`NoEncoder`.

    Raises:
        ValueError: Unknown ``type``.
    """
    kwargs = dict(cfg)
    kind = kwargs.pop('type', 'dwsep')
    if kind not in ENCODERS:
        raise ValueError(f'the type of the encoder must be one of {sorted(ENCODERS)}, not {kind!r}')
    return ENCODERS[kind](**kwargs)


@MODELS.register_module()
class O2DETR(DeformableDETR):
    """Oriented DETR with a convolutional encoder.

    Args:
        encoder: See :func:`build_encoder`.
        decoder: Arguments of :class:`O2DETRDecoder`.
        bbox_head: Config of :class:`O2DETRHead`.
        num_queries: ``M``. 900 for patches of DOTA, which may hold hundreds of objects.
        with_box_refine: Whether each decoder layer starts from the boxes of the one before. Off in the base model: the
            abstract does not name it.
        as_two_stage: Whether the first boxes come from the best tokens of the encoder. Off in the base model.
        distinct_thr: Of two stages. Of proposals that overlap more, see :func:`~.proposals.probabilistic_iou`, the
            worse comes last, and queries get the content of their tokens. None for the proposals of Deformable DETR:
            the best tokens, repeats among them, and queries made of boxes alone.
        recompute_query_pos: Of two stages with refinement. Whether each layer embeds the position of a query anew, from
            the box of the layer before, as in DINO; without, it is that of the first box, as in Deformable DETR.
        dn_cfg: Of two stages. Arguments of :class:`~.denoising.RotatedCdnQueryGenerator`, but for those that the
            detector knows; None for no denoising queries in training.
        num_feature_levels: ``L``, maps that the neck gives.
        *args: Of the host's ``DeformableDETR``.
        **kwargs: Of the host's ``DeformableDETR``: ``backbone``, ``neck``, ``positional_encoding``, ``train_cfg``,
            ``test_cfg``, ``data_preprocessor``.

    Raises:
        TypeError: The head is no :class:`O2DETRHead`.
        ValueError: Encoder, decoder, head and positions differ in width, or the decoder's levels in number; or
            ``recompute_query_pos`` or ``dn_cfg`` without two stages and refinement.
    """

    def __init__(
        self,
        *args,
        distinct_thr: float | None = 0.7,
        recompute_query_pos: bool = False,
        dn_cfg: OptConfigType = None,
        **kwargs,
    ) -> None:
        self.distinct_thr = distinct_thr
        self.recompute_query_pos = recompute_query_pos
        self.dn_cfg = dn_cfg
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        self.positional_encoding = SinePositionalEncoding(**self.positional_encoding)
        self.encoder = build_encoder(self.encoder)
        self.decoder = O2DETRDecoder(**self.decoder)
        self.embed_dims = self.encoder.embed_dims
        self._check()
        self.level_embed = nn.Parameter(torch.zeros(self.num_feature_levels, self.embed_dims))
        if self.as_two_stage:
            self.memory_trans_fc = nn.Linear(self.embed_dims, self.embed_dims)
            self.memory_trans_norm = nn.LayerNorm(self.embed_dims)
            self.pos_trans_fc = nn.Linear(self.embed_dims // 2 * 6, self.embed_dims * 2)
            self.pos_trans_norm = nn.LayerNorm(self.embed_dims * 2)
            if self.distinct_thr is not None:
                self.content_norm = nn.LayerNorm(self.embed_dims)
            if self.dn_cfg is not None:
                self.dn_query_generator = RotatedCdnQueryGenerator(
                    num_classes=self.bbox_head.num_classes,
                    embed_dims=self.embed_dims,
                    num_matching_queries=self.num_queries,
                    **self.dn_cfg,
                )
        else:
            # Content and position of each query.
            self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims * 2)
            self.reference_points_fc = nn.Linear(self.embed_dims, 2)

    def _check(self) -> None:
        wanted = dict(recompute_query_pos=self.recompute_query_pos, dn_cfg=self.dn_cfg is not None)
        if any(wanted.values()) and not (self.as_two_stage and self.with_box_refine):
            names = ' and '.join(name for name, want in wanted.items() if want)
            raise ValueError(f'without as_two_stage=True and with_box_refine=True there are no boxes for {names}')
        if not isinstance(self.bbox_head, O2DETRHead):
            raise TypeError(f'bbox_head must be an O2DETRHead, not {type(self.bbox_head).__name__}')
        widths = dict(
            encoder=self.embed_dims,
            decoder=self.decoder.embed_dims,
            bbox_head=self.bbox_head.embed_dims,
            positional_encoding=2 * self.positional_encoding.num_feats,
        )
        if len(set(widths.values())) > 1:
            raise ValueError(f'embed_dims (twice num_feats of positional_encoding) must be equal, not {widths}')
        levels = self.decoder.layers[0].cross_attn.num_levels
        if levels != self.num_feature_levels:
            raise ValueError(
                f"num_feature_levels is {self.num_feature_levels}, num_levels of the decoder's cross_attn_cfg {levels}"
            )

    def init_weights(self) -> None:
        """As the host's, which then makes depthwise kernels far too small; those are set again."""
        super().init_weights()
        for module in self.encoder.modules():
            if isinstance(module, DepthwiseSeparableMixer):
                module.init_weights()

    def pre_transformer(
        self, mlvl_feats: tuple[Tensor, ...], batch_data_samples: OptSampleList = None
    ) -> tuple[dict, dict]:
        """As the host's; without data samples, as for an export or a count of operations, no image is padded.

        Args:
            mlvl_feats: ``L`` maps ``(B, D, H_l, W_l)``.
            batch_data_samples: With ``img_shape`` and ``batch_input_shape``.

        Returns:
            Arguments of :meth:`forward_encoder` and :meth:`forward_decoder`.

        Raises:
            ValueError: The neck gives another number of maps than ``num_feature_levels``.
        """
        if len(mlvl_feats) != self.num_feature_levels:
            raise ValueError(f'the neck gives {len(mlvl_feats)} maps, num_feature_levels is {self.num_feature_levels}')
        if batch_data_samples is None:
            # Only whether both shapes agree is read from them.
            batch_data_samples = [DetDataSample(metainfo=dict(img_shape=(1, 1), batch_input_shape=(1, 1)))]
        return super().pre_transformer(mlvl_feats, batch_data_samples)

    def forward_transformer(self, img_feats: tuple[Tensor, ...], batch_data_samples: OptSampleList = None) -> dict:
        """As the host's; the true boxes reach the denoising queries.

        Args:
            img_feats: ``L`` maps ``(B, D, H_l, W_l)``.
            batch_data_samples: With ``gt_instances`` where denoising queries are made.

        Returns:
            Arguments of the head.
        """
        encoder_inputs, decoder_inputs = self.pre_transformer(img_feats, batch_data_samples)
        queries, head_inputs = self.pre_decoder(**self.forward_encoder(**encoder_inputs))
        # Not where a cascade has frozen the decoder: its proposals would be made of true boxes.
        if self.decoder.training and self.dn_cfg is not None and batch_data_samples is not None:
            head_inputs['dn_meta'] = self.add_denoising_queries(queries, batch_data_samples)
        return head_inputs | self.forward_decoder(**decoder_inputs, **queries)

    def add_denoising_queries(self, queries: dict, batch_data_samples: SampleList) -> dict:
        """Put denoising queries before the others.

        Args:
            queries: ``query``, ``query_pos`` ``(B, M, D)`` and ``reference_points`` ``(B, M, 5)``; they are replaced,
                and ``self_attn_mask`` is added.
            batch_data_samples: With ``gt_instances``.

        Returns:
            What their loss needs, see :class:`~.denoising.RotatedCdnQueryGenerator`.
        """
        gts = [self.bbox_head.prepare_gt(sample.gt_instances, sample.metainfo) for sample in batch_data_samples]
        shapes = [sample.img_shape for sample in batch_data_samples]
        labels, boxes, mask, dn_meta = self.dn_query_generator(gts, shapes, queries['query'].size(1))
        query_pos, query = self.embed_boxes(boxes)
        denoising = dict(query=query + labels, query_pos=query_pos, reference_points=boxes)
        queries.update({key: torch.cat([value, queries[key]], dim=1) for key, value in denoising.items()})
        queries['self_attn_mask'] = mask
        return dn_meta

    def embed_boxes(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return position and content ``(B, M, D)`` of queries that start from normalized boxes ``(B, M, 5)``."""
        # The host's function takes logits, of any number of coordinates, and embeds each in num_pos_feats numbers.
        embedded = self.get_proposal_pos_embed(inverse_sigmoid(circular(boxes)), num_pos_feats=self.embed_dims // 2)
        return self.pos_trans_norm(self.pos_trans_fc(embedded)).chunk(2, dim=-1)

    def forward_decoder(
        self,
        memory: Tensor,
        memory_mask: Tensor | None,
        reference_points: Tensor,
        self_attn_mask: Tensor | None = None,
        **kwargs,
    ) -> dict:
        """As the host's, with a mask of the queries.

        Args:
            memory: ``(B, N, D)``.
            memory_mask: ``(B, N)``, True at padding, or None.
            reference_points: ``(B, M, 2)`` or ``(B, M, 5)``.
            self_attn_mask: ``(M, M)``, True where a query must not look at another, or None.
            **kwargs: Of :meth:`O2DETRDecoder.forward`.

        Returns:
            ``hidden_states`` ``(K, B, M, D)`` and ``references``, of the first layer and after each.
        """
        states, references = self.decoder(
            value=memory,
            key_padding_mask=memory_mask,
            reference_points=reference_points,
            reg_branches=self.bbox_head.reg_branches if self.with_box_refine else None,
            self_attn_mask=self_attn_mask,
            embed_boxes=self.embed_boxes if self.recompute_query_pos else None,
            **kwargs,
        )
        return dict(hidden_states=states, references=[reference_points, *references])

    def pre_decoder(self, memory: Tensor, memory_mask: Tensor | None, spatial_shapes: Tensor) -> tuple[dict, dict]:
        """Queries and their references.

        Args:
            memory: ``(B, N, D)``.
            memory_mask: ``(B, N)``, True at padding, or None.
            spatial_shapes: ``(L, 2)``.

        Returns:
            Arguments of :meth:`forward_decoder` and of the head.
        """
        if not self.as_two_stage:
            return super().pre_decoder(memory, memory_mask, spatial_shapes)
        tokens, anchors = self.gen_encoder_output_proposals(memory, memory_mask, spatial_shapes)
        scores = self.bbox_head.cls_branches[self.decoder.num_layers](tokens)
        boxes = refine_boxes(self.bbox_head.reg_branches[self.decoder.num_layers](tokens), anchors.sigmoid())
        # Tokens at the border or in the padding have infinite anchors; the host lets them be chosen. It also takes the
        # logit of the first class for that of any object.
        objectness = scores.amax(-1).masked_fill(anchors.isinf().any(-1), -torch.inf)
        num = min(self.num_queries, objectness.size(1))
        if self.distinct_thr is None:
            best = objectness.topk(num, dim=1).indices
        else:
            sides = image_sides(memory, memory_mask, spatial_shapes)
            best = distinct_tokens(objectness, boxes, sides, num, self.distinct_thr)
        chosen = boxes.gather(1, best[..., None].expand(-1, -1, 5)).detach()
        query_pos, query = self.embed_boxes(chosen)
        if self.distinct_thr is not None:
            query = query + self.content_norm(tokens.gather(1, best[..., None].expand(-1, -1, self.embed_dims)))
        decoder_inputs = dict(query=query, query_pos=query_pos, memory=memory, reference_points=chosen)
        head_inputs = dict(enc_outputs_class=scores, enc_outputs_coord=boxes) if self.training else {}
        return decoder_inputs, head_inputs


def image_sides(memory: Tensor, memory_mask: Tensor | None, spatial_shapes: Tensor) -> Tensor:
    """Width and height of the images without padding, in cells of the finest level.

    Args:
        memory: ``(B, N, D)``.
        memory_mask: ``(B, N)``, True at padding, or None.
        spatial_shapes: ``(L, 2)``.

    Returns:
        ``(B, 2)``, or ``(1, 2)`` without padding.
    """
    height, width = spatial_shapes[0]
    if memory_mask is None:
        return torch.stack([width, height])[None].to(memory)
    inside = ~memory_mask[:, : height * width].unflatten(1, (height, width))
    return torch.stack([inside[:, 0].sum(1), inside[:, :, 0].sum(1)], dim=1).to(memory)
