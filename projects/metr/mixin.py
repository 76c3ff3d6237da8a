"""What METR (arXiv 2304.03580) adds to a two-stage DETR, whichever it is.

``backbone → encoder → category extraction → K groups of Q queries, one category each → decoder → one logit a query``

Shapes: ``B`` images, ``N`` memory tokens, ``V`` names, ``K`` kept names, ``Q`` queries a name, ``D`` channels.
"""

from collections.abc import Mapping, Sequence

import torch
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from mmengine.model import ModuleList
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from .cem import Categories
from .text.vocabulary import Vocabulary


class METRMixin:
    """What METR adds to a two-stage DETR. See :class:`METR` for the arguments.

    It stands before the host's detector, whose ``extract_feat``, ``forward_transformer``, ``decoder``,
    ``gen_encoder_output_proposals`` and ``bbox_head`` (a :class:`METRHead`) it calls, and needs of its own class:

    Attributes:
        decoder_class: The decoder of the base, over groups.
    """

    decoder_class: type

    def make_queries(self, categories: Categories, boxes: Tensor, batch_data_samples: SampleList) -> dict:
        """Queries of all groups at the shared boxes, as the base makes its own.

        Args:
            categories: The batch's kept names.
            boxes: ``(B, Q, 4)`` cxcywh before the sigmoid.
            batch_data_samples: Ground truth is read in training only.

        Returns:
            Inputs of the decoder: ``query (B, M, D)``, ``reference_points (B, M, 4)`` and what else the base needs;
            ``dn_meta`` for the head.
        """
        raise NotImplementedError(f'{type(self).__name__} must say how its queries are made')

    def __init__(
        self,
        *args,
        vocabulary: dict,
        text_bank: dict,
        cem: dict | None = None,
        num_categories: int = 20,
        num_queries: int = 100,
        mask_unannotated: bool = True,
        with_box_refine: bool = True,
        as_two_stage: bool = True,
        with_cp: bool = False,
        **kwargs,
    ) -> None:
        if not (with_box_refine and as_two_stage):
            raise ValueError(
                'METR takes its reference boxes from the encoder and refines them in each layer: '
                'with_box_refine and as_two_stage must be True'
            )
        if min(num_categories, num_queries) < 1:
            raise ValueError(
                f'num_categories and num_queries must be at least 1, got {num_categories} and {num_queries}'
            )
        self.with_cp = with_cp
        super().__init__(*args, num_queries=num_queries, with_box_refine=True, as_two_stage=True, **kwargs)
        self.num_categories = num_categories
        self.mask_unannotated = mask_unannotated
        self.vocabulary = Vocabulary(**vocabulary)
        defaults = dict(type='TextBank', embed_dims=self.embed_dims, names=self.vocabulary.lookup_names)
        self.text_bank = MODELS.build({**defaults, **text_bank})
        defaults = dict(type='CategoryExtractionModule', embed_dims=self.embed_dims)
        self.cem = MODELS.build({**defaults, **(cem or {})})

    def _init_layers(self) -> None:
        decoder = self.decoder
        super()._init_layers()
        self.decoder = self.decoder_class(**decoder)
        if self.with_cp:
            # The host's own `num_cp` is for the encoder alone and asks for fairscale. torch's wrapper is left out of
            # the names in checkpoints and, unlike a `forward` put on the layer, survives a copy of the model.
            for part in (self.encoder, self.decoder):
                part.layers = ModuleList([checkpoint_wrapper(layer) for layer in part.layers])

    def set_vocabulary(self, names: Sequence[str] | str | Mapping) -> None:
        """Detect other categories from now on; for test time.

        Labels of the predictions are positions in ``names``. A visualizer that reads ``dataset_meta``, as that of
        ``DetInferencer`` does, shows the new names.

        Args:
            names: Category names, or one; or a whole vocabulary, with aliases and names that are kept separate: the
                arguments of :class:`Vocabulary`, such as ``model.vocabulary.to_config()`` gave before. Each name must
                be in the embedding file of the model.

        Raises:
            KeyError: A name has no embedding; the message holds the command that adds it.
            ValueError: The language model cannot tell two names apart.
        """
        names = [names] if isinstance(names, str) else names
        vocabulary = Vocabulary(**names) if isinstance(names, Mapping) else Vocabulary({'active': list(names)})
        self.text_bank.set_names(vocabulary.lookup_names)
        self.vocabulary = vocabulary
        if hasattr(self, 'dataset_meta'):
            self.dataset_meta.update(vocabulary.to_metainfo(), palette='random')

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Detection losses and the multi-label loss of the CEM.

        Args:
            batch_inputs: ``(B, 3, H, W)``.
            batch_data_samples: Labels are rows of the vocabulary; ``annotated_rows`` or else ``dataset_name`` in the
                metainfo tells which rows are annotated (all, if both are absent).

        Returns:
            See :meth:`METRHead.loss` and :meth:`CategoryExtractionModule.loss`.
        """
        head_inputs = self.forward_transformer(self.extract_feat(batch_inputs), batch_data_samples)
        losses = self.bbox_head.loss(**head_inputs, batch_data_samples=batch_data_samples)
        return {**losses, **self.cem.loss(head_inputs['categories'])}

    def count_boxes(self, batch_data_samples: SampleList) -> Tensor:
        """Ground-truth boxes of each name, ``(B, V)``.

        Raises:
            ValueError: A label is no row of the vocabulary.
        """
        num_names = len(self.vocabulary)
        labels = [sample.gt_instances.labels for sample in batch_data_samples]
        flat = torch.cat(labels)
        low, high = torch.stack(flat.aminmax()).tolist() if len(flat) else (0, 0)
        if not 0 <= low <= high < num_names:
            bad = next(i for i, row in enumerate(labels) if ((row < 0) | (row >= num_names)).any())
            raise ValueError(
                f'{batch_data_samples[bad].metainfo.get("img_path", "an image")} has the labels '
                f'{labels[bad].unique().tolist()}, the vocabulary of the model has {num_names} names: give model and '
                'data the same one'
            )
        counts = flat.new_zeros(len(labels), num_names)
        for count, row in zip(counts, labels, strict=True):
            count.scatter_add_(0, row, torch.ones_like(row))  # a bincount would wait for the largest
        return counts

    def allowed_categories(self, batch_data_samples: SampleList, device: torch.device) -> Tensor:
        """The names that may be kept, ``(B, V)`` bool.

        In training the rows that are annotated in the image (:meth:`Vocabulary.annotated_in`), and rows that got pseudo
        boxes (:class:`PseudoBoxHook`). An image that does not say, ``mask_unannotated=False`` and test time: all.

        Raises:
            KeyError: The vocabulary has no data set of that name.
        """
        allowed = torch.ones(len(batch_data_samples), len(self.vocabulary), dtype=torch.bool)
        if self.training and self.mask_unannotated:
            for row, sample in zip(allowed, batch_data_samples, strict=True):
                annotated = self.vocabulary.annotated_in(sample.metainfo)
                if annotated is not None:
                    row.copy_(annotated)
                    row[list(sample.metainfo.get('pseudo_rows', ()))] = True
        return allowed.to(device)

    def exhaustive_categories(self, batch_data_samples: SampleList, device: torch.device) -> Tensor:
        """The names of which every object in the image has a box, ``(B, V)`` bool.

        All but ``partly_boxed_rows`` in the metainfo, which LVIS calls "not exhaustive"; see
        :meth:`allowed_categories` for when all are.
        """
        exhaustive = torch.ones(len(batch_data_samples), len(self.vocabulary), dtype=torch.bool)
        if self.training and self.mask_unannotated:
            for row, sample in zip(exhaustive, batch_data_samples, strict=True):
                row[list(sample.metainfo.get('partly_boxed_rows', ()))] = False
        return exhaustive.to(device)

    def extract_categories(
        self, memory: Tensor, memory_mask: Tensor | None, batch_data_samples: SampleList
    ) -> Categories:
        """Run the CEM and keep ``K`` names an image.

        Args:
            memory: ``(B, N, D)``.
            memory_mask: ``(B, N)`` bool, True at padding, or None.
            batch_data_samples: Ground truth is read in training only.
        """
        vectors, logits = self.cem(self.text_bank(), memory, memory_mask)
        allowed = self.allowed_categories(batch_data_samples, memory.device)
        gt_counts = exhaustive = None
        if self.training:
            gt_counts = self.count_boxes(batch_data_samples)
            exhaustive = self.exhaustive_categories(batch_data_samples, memory.device)
            # Where a crop has left no box of such a name, its other objects may still be in the picture.
            allowed = allowed & (exhaustive | (gt_counts > 0))
        keep, valid = self.cem.retain(logits[-1], allowed, self.num_categories, gt_counts)
        return Categories(vectors, logits, allowed, keep, valid, gt_counts, exhaustive)

    def pre_decoder(
        self,
        memory: Tensor,
        memory_mask: Tensor | None,
        spatial_shapes: Tensor,
        batch_data_samples: OptSampleList = None,
    ) -> tuple[dict, dict]:
        """Categories, proposals and queries.

        The ``Q`` best tokens by the maximum over the allowed names give the reference boxes that all groups share.

        Args:
            memory: ``(B, N, D)``.
            memory_mask: ``(B, N)`` bool or None.
            spatial_shapes: ``(levels, 2)`` as (h, w).
            batch_data_samples: One an image.

        Returns:
            Inputs of :meth:`forward_decoder` and of the head.
        """
        categories = self.extract_categories(memory, memory_mask, batch_data_samples)
        tokens, anchors = self.gen_encoder_output_proposals(memory, memory_mask, spatial_shapes)
        scores = self.bbox_head.cls_branches[-1].pairwise(tokens, categories.vectors)
        boxes = self.bbox_head.reg_branches[-1](tokens) + anchors
        # Finite: in an image without any annotated name all tokens are alike, but those below still come last.
        best = scores.detach().masked_fill(~categories.allowed[:, None], torch.finfo(scores.dtype).min).amax(-1)
        # The host marks tokens in the padding or at the border with infinite anchors, but may still choose them.
        best = best.masked_fill(anchors.isinf().any(-1), -torch.inf)
        top = best.topk(min(self.num_queries, best.size(1)), dim=1).indices[..., None]
        boxes = boxes.gather(1, top.expand(-1, -1, 4))

        decoder_inputs = self.make_queries(categories, boxes.detach(), batch_data_samples)
        decoder_inputs.update(memory=memory, num_groups=categories.keep.size(1))
        dn_meta = decoder_inputs.pop('dn_meta', None)
        head_inputs = dict(categories=categories)
        if self.training:
            head_inputs.update(
                enc_outputs_class=scores.gather(1, top.expand(-1, -1, scores.size(-1))),
                enc_outputs_coord=boxes.sigmoid(),
                dn_meta=dn_meta,
            )
        return decoder_inputs, head_inputs

    def forward_decoder(
        self, query: Tensor, memory: Tensor, memory_mask: Tensor | None, reference_points: Tensor, **kwargs
    ) -> dict:
        """As the host's, with what the grouped layers need.

        DINO's own tests ``len(query) == num_queries`` to keep a parameter in the graph; that compares the batch size.

        Args:
            query: ``(B, M, D)``, denoising queries first.
            memory: ``(B, N, D)``.
            memory_mask: ``(B, N)`` bool or None.
            reference_points: ``(B, M, 4)``.
            **kwargs: ``num_groups``, ``spatial_shapes``, ``level_start_index``, ``valid_ratios``; ``dn_mask`` (DINO) or
                ``query_pos`` (Deformable DETR).
        """
        hidden_states, references = self.decoder(
            query=query,
            value=memory,
            key_padding_mask=memory_mask,
            reference_points=reference_points,
            reg_branches=self.bbox_head.reg_branches,
            **kwargs,
        )
        if len(references) == len(hidden_states):
            # Deformable DETR's decoder leaves out the initial references, DINO's has them.
            references = [reference_points, *references]
        return dict(hidden_states=hidden_states, references=list(references))
