"""Decoders whose queries attend only to queries of their own category (METR, arXiv 2304.03580).

The released code folds categories into the batch and copies the image memory once a category (20 times). Here only
self-attention is folded; cross-attention reads the one memory of the image with all its queries, which gives the same
numbers (a test compares with a block-diagonal mask and with the copies).

Shapes: ``B`` images, ``P`` denoising queries, ``K`` groups of ``Q`` queries, ``M = P + K Q``, ``N`` memory tokens.
"""

import torch
from mmdet.models.layers import (
    DeformableDetrTransformerDecoder,
    DeformableDetrTransformerDecoderLayer,
    DinoTransformerDecoder,
)
from mmengine.model import ModuleList
from torch import Tensor

from .positions import RefPointHead


class METRDecoderLayer(DeformableDetrTransformerDecoderLayer):
    """Deformable decoder layer with self-attention inside groups."""

    def forward(
        self, query: Tensor, query_pos: Tensor, num_groups: int, dn_mask: Tensor | None = None, **kwargs
    ) -> Tensor:
        """Apply self-attention, deformable cross-attention and the FFN.

        Args:
            query: ``(B, M, D)``, denoising queries first, then the groups one after another.
            query_pos: ``(B, M, D)``.
            num_groups: ``K``.
            dn_mask: ``(B * heads, P, P)`` bool, True where attention is forbidden; None when ``P = 0``.
            **kwargs: ``value``, ``key_padding_mask``, ``reference_points``, ``spatial_shapes`` and
                ``level_start_index`` of the host's cross-attention.

        Returns:
            ``(B, M, D)``.
        """
        num_dn = 0 if dn_mask is None else dn_mask.size(-1)
        groups = self._attend(*(self._fold(x[:, num_dn:], num_groups) for x in (query, query_pos)))
        groups = groups.reshape(query.size(0), -1, query.size(-1))
        if num_dn:
            denoising = self._attend(query[:, :num_dn], query_pos[:, :num_dn], dn_mask)
            groups = torch.cat([denoising, groups], dim=1)
        query = self.norms[0](groups)
        query = self.norms[1](self.cross_attn(query=query, query_pos=query_pos, **kwargs))
        return self.norms[2](self.ffn(query))

    def _attend(self, query: Tensor, query_pos: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        return self.self_attn(query, query, query, query_pos=query_pos, key_pos=query_pos, attn_mask=attn_mask)

    @staticmethod
    def _fold(x: Tensor, num_groups: int) -> Tensor:
        """``(B, K Q, D)`` to ``(B K, Q, D)``."""
        return x.reshape(x.size(0) * num_groups, -1, x.size(-1))


class GroupedLayersMixin:
    """Build :class:`METRDecoderLayer` where the host's decoder builds its own layer."""

    def _init_layers(self) -> None:
        super()._init_layers()
        self.layers = ModuleList([METRDecoderLayer(**self.layer_cfg) for _ in range(self.num_layers)])


class METRDecoder(GroupedLayersMixin, DinoTransformerDecoder):
    """DINO's decoder (look forward twice) over groups. Shapes as in the host, with ``M`` queries an image."""

    def _init_layers(self) -> None:
        super()._init_layers()
        self.ref_point_head = RefPointHead(self.embed_dims)

    def forward(self, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """As the host's, whose one mask for all queries is not used: ``dn_mask`` goes to the layers."""
        return super().forward(*args, self_attn_mask=None, **kwargs)


class DeformableMETRDecoder(GroupedLayersMixin, DeformableDetrTransformerDecoder):
    """Deformable DETR's decoder over groups. Shapes as in the host, with ``K Q`` queries an image."""
