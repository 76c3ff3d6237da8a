"""Deformable cross-attention in two thirds of the time on a CPU (not in METR, arXiv 2304.03580: our decision).

METR's decoder samples with thousands of queries, and on a CPU mmcv's fallback then is the largest part of the decoder:
it keeps the samples of all levels side by side, sums over a last axis of few entries, and copies most tensors to bring
their axes in order. Here the queries and the tokens are the last axis from the projections on, and one level is sampled
after another. Other devices use mmcv's op.
"""

import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention
from torch import Tensor, nn


def channels_first_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer to ``(B, M, C)`` and return ``(B, D, M)``, without a transposed copy."""
    weight = linear.weight.expand(len(x), -1, -1)
    return torch.baddbmm(linear.bias[:, None], weight, x.transpose(1, 2))


class WeightedSum(torch.autograd.Function):
    """Sum samples ``(G, D, P, M)`` over the points with weights ``(G, P, M)``: ``(G, D, M)``.

    The products of all points are never in memory together, neither forward nor backward.
    """

    @staticmethod
    def forward(ctx, samples: Tensor, weights: Tensor) -> Tensor:
        """Sum point by point."""
        ctx.save_for_backward(samples, weights)
        output = samples[:, :, 0] * weights[:, None, 0]
        for point in range(1, samples.size(2)):
            output.addcmul_(samples[:, :, point], weights[:, None, point])
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of samples and weights."""
        samples, weights = ctx.saved_tensors
        of_weights = [(samples[:, :, point] * grad).sum(1) for point in range(samples.size(2))]
        return grad[:, :, None] * weights[:, None], torch.stack(of_weights, dim=1)


def sample_levels(maps: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Sum the sampled values of every level, weighted, one level after another.

    The same sum as mmcv's ``multi_scale_deformable_attn_pytorch`` (a test compares values and gradients), with the long
    axes last.

    Args:
        maps: Values ``(B, heads, D, N)``, levels one after another.
        spatial_shapes: ``(L, 2)``, height and width of each level.
        locations: ``(B, heads, L, points, 2, M)``, x and y in [0, 1] of the padded image.
        weights: ``(B, heads, L, points, M)``.

    Returns:
        ``(B, heads * D, M)``.
    """
    shapes = spatial_shapes.tolist()
    levels = maps.flatten(0, 1).split([height * width for height, width in shapes], dim=-1)
    grids = (2 * locations - 1).transpose(-1, -2).flatten(0, 1)  # (B * heads, L, points, M, 2)
    weights = weights.flatten(0, 1)
    output = sum(
        WeightedSum.apply(
            F.grid_sample(tokens.unflatten(-1, shape), grids[:, level], align_corners=False), weights[:, level]
        )
        for level, (tokens, shape) in enumerate(zip(levels, shapes, strict=True))
    )
    return output.view(len(maps), -1, output.size(-1))


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
        maps = channels_first_linear(self.value_proj, value)
        if key_padding_mask is not None:
            maps = maps.masked_fill(key_padding_mask[:, None], 0.0)
        per_level = (self.num_heads, self.num_levels, self.num_points)
        offsets = channels_first_linear(self.sampling_offsets, query).unflatten(1, (*per_level, 2))
        weights = channels_first_linear(self.attention_weights, query).unflatten(1, (self.num_heads, -1)).softmax(2)
        references = reference_points.permute(0, 2, 3, 1)[:, None, :, None]  # (B, 1, L, 1, 2 or 4, M)
        # In the host's order of rounding: a place that falls into the next cell has another gradient.
        if references.size(4) == 4:
            offsets = offsets / self.num_points * references[..., 2:, :] * 0.5
        else:
            offsets = offsets / spatial_shapes.flip(-1)[:, None, :, None]
        output = sample_levels(
            maps.unflatten(1, (self.num_heads, -1)),
            spatial_shapes,
            references[..., :2, :] + offsets,
            weights.unflatten(2, per_level[1:]),
        )
        return self.dropout(self.output_proj(output.transpose(1, 2))) + identity
