"""Decoder of O²DETR (arXiv 2106.03146): that of Deformable DETR with rotated reference boxes.

Cross-attention samples around the center of a reference, as far as the upright rectangle around it reaches. The sides
of a box are not those of that rectangle: some public rotated DETRs hand them on as width and height, and sample beside
a long upright object. Turning the points with the box is later work (ARS-DETR and others). The public text of
the paper does not describe the decoder; a leaderboard lists the method as "deformable detr".

Shapes: ``B`` images, ``M`` queries, ``N`` memory tokens, ``L`` levels, ``D`` channels.
"""

from collections.abc import Callable

import torch
from mmdet.models.layers import DeformableDetrTransformerDecoder
from torch import Tensor, nn

from .angles import enclosing_sides, refine_boxes


def sampling_references(references: Tensor, spatial_shapes: Tensor, valid_ratios: Tensor) -> Tensor:
    """Where the host's attention samples, in parts of the padded maps.

    Args:
        references: ``(B, M, 2)`` points or ``(B, M, 5)`` boxes, normalized by the image: sides by its longer one.
        spatial_shapes: ``(L, 2)``, height and width of the levels.
        valid_ratios: ``(B, L, 2)``, width and height of the image in its padded batch.

    Returns:
        ``(B, M, L, 2)`` points, or upright rectangles ``(B, M, L, 4)``.
    """
    points = references[:, :, None, :2] * valid_ratios[:, None]
    if references.size(-1) == 2:
        return points
    image = valid_ratios[:, 0] * spatial_shapes[0].flip(0)  # width and height in cells of the finest level
    sides = enclosing_sides(references) * (image.amax(-1, keepdim=True) / image)[:, None]
    return torch.cat([points, sides[:, :, None] * valid_ratios[:, None]], dim=-1)


class O2DETRDecoder(DeformableDetrTransformerDecoder):
    """Deformable decoder that refines ``(cx, cy, w, h, θ)``.

    Args:
        num_layers: Decoder layers.
        layer_cfg: Arguments of the host's ``DeformableDetrTransformerDecoderLayer``.
        return_intermediate: Whether all layers are returned; the head needs them.
        post_norm_cfg: None.
        init_cfg: Initialization config.
    """

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        reference_points: Tensor,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        valid_ratios: Tensor,
        reg_branches: nn.ModuleList | None = None,
        embed_boxes: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            query: ``(B, M, D)``.
            query_pos: ``(B, M, D)``.
            value: ``(B, N, D)`` memory.
            key_padding_mask: ``(B, N)``, True at padding, or None.
            reference_points: ``(B, M, 2)`` points or ``(B, M, 5)`` boxes, normalized.
            spatial_shapes: ``(L, 2)``, height and width of the levels.
            level_start_index: ``(L,)``.
            valid_ratios: ``(B, L, 2)``, width and height of the image in its padded batch.
            reg_branches: A box branch for each layer: each layer's boxes are the references of the next; None for the
                same references in all.
            embed_boxes: Gives the positions of queries, and their content, from boxes; None for ``query_pos`` in all
                layers. The first layer has ``query_pos`` in any case.
            **kwargs: For the layers.

        Returns:
            Hidden states ``(layers, B, M, D)`` and references after each layer ``(layers, B, M, 2 or 5)``; of the last
            layer only, without the first dimension, if ``return_intermediate`` is off.
        """
        states, references = [], []
        for index, layer in enumerate(self.layers):
            if index and embed_boxes is not None:
                query_pos, _ = embed_boxes(reference_points)
            query = layer(
                query,
                query_pos=query_pos,
                value=value,
                key_padding_mask=key_padding_mask,
                spatial_shapes=spatial_shapes,
                level_start_index=level_start_index,
                valid_ratios=valid_ratios,
                reference_points=sampling_references(reference_points, spatial_shapes, valid_ratios),
                **kwargs,
            )
            if reg_branches is not None:
                reference_points = refine_boxes(reg_branches[index](query), reference_points).detach()
            states.append(query)
            references.append(reference_points)
        if self.return_intermediate:
            return torch.stack(states), torch.stack(references)
        return query, reference_points
