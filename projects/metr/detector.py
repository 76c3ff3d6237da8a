"""METR: language-aware multi-dataset pretraining of DETR-like detectors, arXiv 2304.03580.

Two base detectors, the same :class:`~mmplugins.metr.mixin.METRMixin`: :class:`METR` on DINO, :class:`DeformableMETR` on
two-stage Deformable DETR.

Shapes: ``B`` images, ``V`` names, ``K`` kept names, ``Q`` queries a name, ``D`` channels.
"""

import torch
from mmdet.models.detectors import DINO, DeformableDETR
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from torch import Tensor

from .cem import Categories
from .decoder import DeformableMETRDecoder, METRDecoder
from .denoising import GroupCdnQueryGenerator
from .mixin import METRMixin


@MODELS.register_module()
class METR(METRMixin, DINO):
    """METR on DINO: look forward twice, contrastive denoising inside the groups.

    Args:
        vocabulary: Arguments of :class:`Vocabulary`: ``dict(datasets={name: class names})``, ``aliases``,
            ``keep_separate``.
        text_bank: Arguments of :class:`TextBank`; ``embeddings`` is the least.
        cem: Arguments of :class:`CategoryExtractionModule`.
        num_categories: ``K``; 20 in the released code. Cut to the vocabulary.
        num_queries: ``Q``, queries *for each category*; 100 in the released code.
        mask_unannotated: Whether names that the image's data set does not annotate are left out of the CEM's loss and
            of the decoder. Not in the paper: our decision, because such objects may be in the image; False is the
            released behavior.
        with_cp: Whether the layers of encoder and decoder are computed again in the backward pass, for less memory.
        dn_cfg: Arguments of :class:`GroupCdnQueryGenerator`; None for no denoising.
        *args: Of the host's DINO.
        **kwargs: Of the host's DINO.

    Raises:
        ValueError: ``num_categories`` or ``num_queries`` is below 1, or an argument of the host says that there is one
            stage or no refinement.
    """

    decoder_class = METRDecoder

    def __init__(self, *args, dn_cfg: dict | None = None, **kwargs) -> None:
        # The host builds a denoiser in any case, of a size that depends on the number of classes; ours takes its place.
        super().__init__(*args, dn_cfg=dict(group_cfg=dict(num_dn_queries=1)), **kwargs)
        self.dn_query_generator = None if dn_cfg is None else GroupCdnQueryGenerator(self.embed_dims, **dn_cfg)

    def make_queries(self, categories: Categories, boxes: Tensor, batch_data_samples: SampleList) -> dict:
        """Content ``e_j + z_k`` at the shared boxes, behind the denoising queries.

        Args:
            categories: The batch's kept names.
            boxes: ``(B, Q, 4)`` cxcywh before the sigmoid.
            batch_data_samples: Ground truth is read in training only.
        """
        content = self.query_embedding.weight[: boxes.size(1)] + categories.kept_vectors[:, :, None]
        query = content.flatten(1, 2)
        references = boxes.repeat(1, categories.keep.size(1), 1)
        dn_mask = dn_meta = None
        if self.training and self.dn_query_generator is not None:
            kept = torch.zeros_like(categories.allowed).scatter(1, categories.keep, categories.valid)
            dn_query, dn_boxes, dn_meta = self.dn_query_generator(batch_data_samples, categories.vectors, kept)
            query = torch.cat([dn_query, query], dim=1)
            references = torch.cat([dn_boxes, references], dim=1)
            num_heads = self.decoder.layers[0].self_attn.num_heads
            dn_mask = dn_meta.pop('attn_mask').repeat_interleave(num_heads, dim=0)
            if dn_query.size(1) == 0:
                # No box in the batch. The empty queries stay in `query`: DDP asks a gradient of every parameter.
                dn_mask = dn_meta = None
        return dict(query=query, reference_points=references.sigmoid(), dn_mask=dn_mask, dn_meta=dn_meta)


@MODELS.register_module()
class DeformableMETR(METRMixin, DeformableDETR):
    """METR on two-stage Deformable DETR: no denoising, content from the proposals' boxes plus ``z_k``.

    Not in the paper: our decision for the second base detector (the abstract says "DETR-like detectors").

    Args:
        vocabulary: See :class:`METR`.
        text_bank: See :class:`METR`.
        cem: See :class:`METR`.
        num_categories: See :class:`METR`.
        num_queries: See :class:`METR`.
        mask_unannotated: See :class:`METR`.
        with_cp: See :class:`METR`.
        *args: Of the host's DeformableDETR.
        **kwargs: Of the host's DeformableDETR.

    Raises:
        ValueError: See :class:`METR`.
    """

    decoder_class = DeformableMETRDecoder
    # The host's own passes the data samples to `pre_decoder` in DINO only.
    forward_transformer = DINO.forward_transformer

    def make_queries(self, categories: Categories, boxes: Tensor, batch_data_samples: SampleList) -> dict:
        """Position and content from the boxes, as the host does, and ``z_k`` added to the content.

        Args:
            categories: The batch's kept names.
            boxes: ``(B, Q, 4)`` cxcywh before the sigmoid.
            batch_data_samples: Not used.
        """
        num_groups = categories.keep.size(1)
        embedded = self.pos_trans_norm(self.pos_trans_fc(self.get_proposal_pos_embed(boxes, self.embed_dims // 2)))
        query_pos, content = embedded.chunk(2, dim=-1)
        query = (content[:, None] + categories.kept_vectors[:, :, None]).flatten(1, 2)
        return dict(
            query=query,
            query_pos=query_pos.repeat(1, num_groups, 1),
            reference_points=boxes.sigmoid().repeat(1, num_groups, 1),
        )
