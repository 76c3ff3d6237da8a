"""Deformable cross-attention in two thirds of the time on a CPU (not in METR, arXiv 2304.03580: our decision).

METR's decoder samples with thousands of queries, and on a CPU mmcv's fallback then is the largest part of the decoder:
it keeps the samples of all levels side by side and sums over a last axis of few entries. Other devices use mmcv's op.
"""

import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from torch import Tensor


def sample_levels(value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Sum the sampled values of every level, weighted, one level after another.

    The same sum as mmcv's ``multi_scale_deformable_attn_pytorch`` (a test compares values and gradients). The points
    come before the queries, so that the sum over them runs along contiguous memory, and no level waits for another.

    Args:
        value: ``(B, N, heads, D)``, levels one after another.
        spatial_shapes: ``(L, 2)``, height and width of each level.
        locations: ``(B, M, heads, L, points, 2)``, x and y in [0, 1] of the padded image.
        weights: ``(B, M, heads, L, points)``.

    Returns:
        ``(B, M, heads * D)``.
    """
    num_images, num_queries, num_heads, _, num_points, _ = locations.shape
    grids = (2 * locations - 1).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # (L, B * heads, points, M, 2)
    weights = weights.permute(3, 0, 2, 4, 1).reshape(-1, num_images * num_heads, 1, num_points, num_queries)
    shapes = spatial_shapes.tolist()
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in shapes], dim=-1)
    output = sum(
        (F.grid_sample(tokens.unflatten(-1, shape), grid, align_corners=False) * weight).sum(dim=2)
        for tokens, shape, grid, weight in zip(maps, shapes, grids, weights, strict=True)
    )
    return output.view(num_images, -1, num_queries).transpose(1, 2)


class LevelwiseDeformableAttention(MultiScaleDeformableAttention):
    """mmcv's deformable attention with :func:`sample_levels` on a CPU. Parameters and arguments are the host's.

    Shapes: ``query (B, M, D)``, ``value (B, N, D)`` gives ``(B, M, D)``; ``batch_first`` is required, as all of mmdet's
    DETR layers set it.

    Raises:
        ValueError: Not ``batch_first``.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not self.batch_first:
            raise ValueError('LevelwiseDeformableAttention takes (B, M, D): set batch_first=True in cross_attn_cfg')

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        reference_points: Tensor,
        spatial_shapes: Tensor,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        """Attend, with the query as the residual.

        Args:
            query: ``(B, M, D)``.
            value: ``(B, N, D)``.
            reference_points: ``(B, M, L, 2)`` points or ``(B, M, L, 4)`` boxes (cx, cy, w, h), normalized.
            spatial_shapes: ``(L, 2)``.
            query_pos: ``(B, M, D)`` or None.
            key_padding_mask: ``(B, N)`` bool, True for padding, or None.
            **kwargs: What only the op of other devices needs (``level_start_index``).

        Returns:
            ``(B, M, D)``.
        """
        if value.device.type != 'cpu':
            return super().forward(
                query,
                value=value,
                query_pos=query_pos,
                key_padding_mask=key_padding_mask,
                reference_points=reference_points,
                spatial_shapes=spatial_shapes,
                **kwargs,
            )
        identity = query
        if query_pos is not None:
            query = query + query_pos
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        per_level = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*per_level, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        # In the host's order of rounding: a place that falls into the next cell has another gradient.
        if reference_points.size(-1) == 4:
            offsets = offsets / self.num_points * reference_points[:, :, None, :, None, 2:] * 0.5
        else:
            offsets = offsets / spatial_shapes.flip(-1)[:, None]
        output = sample_levels(
            value.unflatten(-1, (self.num_heads, -1)),
            spatial_shapes,
            reference_points[:, :, None, :, None, :2] + offsets,
            weights.unflatten(-1, per_level[1:]),
        )
        return self.dropout(self.output_proj(output)) + identity
