"""One layer of each kind of encoder on the same tokens, for tools/benchmarks/o2detr.py.

Shapes: ``N`` tokens, ``D`` channels.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from mmdet.models.layers import DeformableDetrTransformerEncoder
from mmdet.models.layers.transformer.deformable_detr_layers import DeformableDetrTransformerEncoderLayer
from mmdet.models.layers.transformer.detr_layers import DetrTransformerEncoderLayer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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


class EncoderCase:
    """One layer of each kind, one after another on the same tokens ``(1, N, D)``."""

    def __init__(self, size: int, dims: int, num_heads: int, with_dense: bool, device: str) -> None:
        torch.manual_seed(0)
        self.shapes = torch.tensor([(size // stride,) * 2 for stride in STRIDES], device=device)
        self.starts = torch.cat([self.shapes.new_zeros(1), self.shapes.prod(1).cumsum(0)[:-1]])
        self.num_tokens = int(self.shapes.prod(1).sum())
        self.query = torch.randn(1, self.num_tokens, dims, device=device, requires_grad=True)
        self.pos = torch.randn(1, self.num_tokens, dims, device=device, requires_grad=True)
        ratios = torch.ones(1, len(STRIDES), 2, device=device)
        self.references = DeformableDetrTransformerEncoder.get_encoder_reference_points(self.shapes, ratios, device)
        ffn = dict(embed_dims=dims, feedforward_channels=4 * dims, ffn_drop=0.0)
        attention = dict(embed_dims=dims, num_heads=num_heads, dropout=0.0)
        self.layers = nn.ModuleDict({
            'ours': DWSepEncoderLayer(dict(embed_dims=dims), ffn),
            'ours, exchange': DWSepEncoderLayer(dict(embed_dims=dims, cross_level='adjacent'), ffn),
            'deformable': DeformableDetrTransformerEncoderLayer(self_attn_cfg=attention.copy(), ffn_cfg=ffn),
        })  # fmt: skip
        # The start values let all queries sample the same offsets; these do not.
        nn.init.normal_(self.layers['deformable'].self_attn.sampling_offsets.weight, std=0.02)
        if with_dense:
            for name in ('dense, explicit', 'dense, fused'):
                plain = dict(attention, attn_drop=0.0, proj_drop=0.0)
                plain.pop('dropout')
                self.layers[name] = DetrTransformerEncoderLayer(self_attn_cfg=plain, ffn_cfg=ffn)
            self.layers['dense, fused'].self_attn = FusedAttention(dims, num_heads)
        self.layers.to(device)
        self.levels = self.shapes.tolist()

    def forward(self, name: str, what: str, num_layers: int = 1) -> Tensor:
        """Run the ``'mixing'`` or the whole ``'layer'`` of a kind, the same one ``num_layers`` times; ``(1, N, D)``."""
        query = self.query
        for _ in range(num_layers):
            query = self._once(name, what, query)
        return query

    def _once(self, name: str, what: str, query: Tensor) -> Tensor:
        layer = self.layers[name]
        if name.startswith('ours'):
            args = (query, self.pos, None, self.levels)
            return layer(*args) if what == 'layer' else query + layer.mixer(*args)
        more = {}
        if name == 'deformable':
            more = dict(
                spatial_shapes=self.shapes, level_start_index=self.starts, reference_points=self.references
            )  # fmt: skip
        if what == 'layer':
            return layer(query, self.pos, None, **more)
        same = dict(query=query, key=query, value=query, query_pos=self.pos, key_pos=self.pos)
        return layer.self_attn(**same, **more)

    def step(self, name: str, what: str, num_layers: int = 1) -> None:
        """Forward and backward."""
        self.query.grad = self.pos.grad = None
        self.forward(name, what, num_layers).sum().backward()

    def arms(self, names: Iterable[str], what: str, num_layers: int = 1) -> dict[str, Callable]:
        """Return what :func:`interleaved` takes."""
        return {name: partial(self.step, name, what, num_layers) for name in names}

    def saved_bytes(self, name: str, what: str) -> int:
        """Bytes that the forward pass keeps for the backward pass, parameters not counted."""
        storages = {}

        def keep(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = self.forward(name, what)
        del out
        return sum(storages.values())

    def flops(self, name: str, what: str) -> int:
        """Operations of the forward pass."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.forward(name, what)
        return counter.get_total_flops()
