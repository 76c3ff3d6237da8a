"""One layer of each kind of encoder on the same tokens.

``ours`` is the default, whose levels stay apart; ``ours, exchange`` adds neighboring levels. ``deformable`` is mmdet's
layer on mmcv's attention, ``dense, explicit`` mmdet's DETR layer on mmcv's ``MultiheadAttention``, which keeps the
weights of all pairs, ``dense, fused`` the same with ``scaled_dot_product_attention``, which does not.

Shapes: ``N`` tokens, ``D`` channels.
"""

from collections.abc import Callable

import torch
from mmdet.models.layers import DeformableDetrTransformerEncoder
from mmdet.models.layers.transformer.deformable_detr_layers import DeformableDetrTransformerEncoderLayer
from mmdet.models.layers.transformer.detr_layers import DetrTransformerEncoderLayer
from torch import Tensor, nn

from mmplugins.o2detr import DWSepEncoderLayer

STRIDES = (8, 16, 32, 64)


class FusedAttention(nn.Module):
    """Multi-head attention that keeps no weights, called as mmcv's ``MultiheadAttention``; ``(1, N, D)``."""

    def __init__(self, dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk, self.v, self.out = nn.Linear(dims, 2 * dims), nn.Linear(dims, dims), nn.Linear(dims, dims)

    def forward(self, query: Tensor, query_pos: Tensor, **kwargs) -> Tensor:
        """Attend and add."""
        q, k = self.qk(query + query_pos).chunk(2, dim=-1)
        heads = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, self.v(query)))
        mixed = nn.functional.scaled_dot_product_attention(*heads)
        return query + self.out(mixed.transpose(1, 2).flatten(2))


def build_layer(name: str, dims: int, num_heads: int) -> nn.Module:
    """Return a layer of a kind, dropout off, its FFN four times as wide."""
    ffn = dict(embed_dims=dims, feedforward_channels=4 * dims, ffn_drop=0.0)
    attention = dict(embed_dims=dims, num_heads=num_heads)
    match name:
        case 'ours':
            return DWSepEncoderLayer(dict(embed_dims=dims), ffn)
        case 'ours, exchange':
            return DWSepEncoderLayer(dict(embed_dims=dims, cross_level='adjacent'), ffn)
        case 'deformable':
            layer = DeformableDetrTransformerEncoderLayer(self_attn_cfg=dict(attention, dropout=0.0), ffn_cfg=ffn)
            # The start values let all queries sample the same offsets; these do not.
            nn.init.normal_(layer.self_attn.sampling_offsets.weight, std=0.02)
            return layer
    layer = DetrTransformerEncoderLayer(self_attn_cfg=dict(attention, attn_drop=0.0, proj_drop=0.0), ffn_cfg=ffn)
    if name == 'dense, fused':
        layer.self_attn = FusedAttention(dims, num_heads)
    return layer


class EncoderCase:
    """Layers of several kinds on the same tokens ``(1, N, D)``.

    Args:
        size: Side of the square image in pixels; the levels have strides 8, 16, 32, 64.
        dims: ``D``.
        names: Kinds, see the top of the file.
        device: Of the tokens; on ``'meta'`` nothing is computed, and there is no deformable layer.
        num_heads: Of attention.
    """

    def __init__(self, size: int, dims: int, names: tuple[str, ...], device: str = 'cpu', num_heads: int = 8) -> None:
        torch.manual_seed(0)
        self.levels = [(size // stride,) * 2 for stride in STRIDES]
        self.num_tokens = sum(height * width for height, width in self.levels)
        self.query = torch.randn(1, self.num_tokens, dims, device=device, requires_grad=True)
        self.pos = torch.randn(1, self.num_tokens, dims, device=device, requires_grad=True)
        self.layers = nn.ModuleDict({name: build_layer(name, dims, num_heads) for name in names}).to(device)
        self.places = {}
        if 'deformable' in names:
            shapes = torch.tensor(self.levels, device=device)
            ratios = torch.ones(1, len(STRIDES), 2, device=device)
            points = DeformableDetrTransformerEncoder.get_encoder_reference_points(shapes, ratios, device)
            starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
            self.places = dict(spatial_shapes=shapes, level_start_index=starts, reference_points=points)

    def arms(self, what: str, names: tuple[str, ...] | None = None) -> dict[str, Callable[[], Tensor]]:
        """Calls that run the ``'mixing'``, which stands in the place of attention, or the whole ``'layer'``."""
        return {name: lambda name=name: self.forward(name, what) for name in names or self.layers}

    def forward(self, name: str, what: str) -> Tensor:
        """``(1, N, D)`` to ``(1, N, D)``."""
        layer, places = self.layers[name], self.places if name == 'deformable' else {}
        if name.startswith('ours'):
            args = (self.query, self.pos, None, self.levels)
            return layer(*args) if what == 'layer' else self.query + layer.mixer(*args)
        if what == 'layer':
            return layer(self.query, self.pos, None, **places)
        same = dict(query=self.query, key=self.query, value=self.query, query_pos=self.pos, key_pos=self.pos)
        return layer.self_attn(**same, **places)
