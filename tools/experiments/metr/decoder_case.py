"""METR's decoder, and two ways to do its work with mmdet's.

`plain`, that of the released code: on ``B K`` copies of the memory. `masked`, as a user of mmdet would write it: on all
queries of an image at once, with a mask in self-attention.

Shapes: ``B`` images, ``K`` groups of ``Q`` queries, ``N`` memory tokens, ``D`` channels.
"""

from collections.abc import Callable
from functools import partial

import torch
from mmdet.models.layers import DinoTransformerDecoder
from torch import Tensor, nn

from experiments.frame.measure import kept_bytes
from mmplugins.metr.decoder import METRDecoder
from mmplugins.metr.positions import matched

FULL = dict(groups=20, queries=100, images=2, dims=256, layers=6, image_size=512)
QUICK = dict(groups=3, queries=10, images=2, dims=32, layers=2, image_size=128)


class DecoderCase:
    """Inputs and decoders, which see the same weights, queries, references and memory.

    Args:
        ffn: Width of the FFN: 1024 in Deformable DETR, 2048 in DINO.
        device: Of all tensors.
        dtype: Of all tensors.
        groups: ``K``.
        queries: ``Q``.
        images: ``B``.
        dims: ``D``.
        layers: Number of decoder layers.
        image_size: In pixels; memory tokens are those of strides 8, 16, 32, 64.
    """

    def __init__(
        self,
        ffn: int,
        device: str,
        dtype: torch.dtype = torch.float32,
        *,
        groups: int,
        queries: int,
        images: int,
        dims: int,
        layers: int,
        image_size: int,
    ) -> None:
        torch.manual_seed(0)
        made = dict(device=device, dtype=dtype)
        self.num_groups = groups
        self.shapes = torch.tensor([(image_size // stride,) * 2 for stride in (8, 16, 32, 64)], device=device)
        tokens = self.shapes.prod(1)
        self.starts = torch.cat([tokens.new_zeros(1), tokens.cumsum(0)[:-1]])
        layer = dict(
            self_attn_cfg=dict(embed_dims=dims, num_heads=8, dropout=0.0, batch_first=True),
            cross_attn_cfg=dict(embed_dims=dims, num_levels=4, dropout=0.0, batch_first=True),
            ffn_cfg=dict(embed_dims=dims, feedforward_channels=ffn, ffn_drop=0.0),
        )
        cfg = dict(num_layers=layers, layer_cfg=layer, return_intermediate=True, post_norm_cfg=None)
        kinds = dict(ours=METRDecoder, plain=DinoTransformerDecoder, masked=DinoTransformerDecoder)
        self.decoders = nn.ModuleDict({arm: kind(**cfg) for arm, kind in kinds.items()}).to(**made)
        for name, parameter in self.decoders['ours'].named_parameters():
            # The start values make all queries look at the same places; these do not.
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2 if 'sampling_offsets' in name else 0.03)
        state, plain = self.decoders['ours'].state_dict(), self.decoders['plain']
        first = 'ref_point_head.layers.0.weight'
        state[first] = matched(state[first], plain.ref_point_head.layers[0].in_features)
        plain.load_state_dict(state)
        self.decoders['masked'].load_state_dict(state)
        group = torch.arange(groups, device=device).repeat_interleave(queries)
        self.apart = group[:, None] != group  # (K Q, K Q), True where attention is forbidden
        self.box_branches = nn.ModuleList([nn.Linear(dims, 4) for _ in range(layers)]).to(**made)
        self.query = torch.randn(images, groups * queries, dims, **made, requires_grad=True)
        self.memory = torch.randn(images, int(tokens.sum()), dims, **made, requires_grad=True)
        self.references = torch.rand(images, groups * queries, 4, **made) * 0.8 + 0.1
        self.valid_ratios = torch.ones(images, 4, 2, **made)

    def outputs(self, arm: str) -> tuple[Tensor, Tensor]:
        """Hidden states ``(layers, B, K Q, D)`` and last references ``(B, K Q, 4)`` of an arm."""
        shared = dict(
            key_padding_mask=None,
            spatial_shapes=self.shapes,
            level_start_index=self.starts,
            reg_branches=self.box_branches,
        )
        decoder = self.decoders[arm]
        if arm == 'ours':
            hidden, references = decoder(
                query=self.query,
                value=self.memory,
                reference_points=self.references,
                valid_ratios=self.valid_ratios,
                num_groups=self.num_groups,
                **shared,
            )
            return hidden, references[-1]
        if arm == 'masked':
            hidden, references = decoder(
                query=self.query,
                value=self.memory,
                self_attn_mask=self.apart,
                reference_points=self.references,
                valid_ratios=self.valid_ratios,
                **shared,
            )
            return hidden, references[-1]
        # The copying is part of the plain way.
        memory, ratios = (x.repeat_interleave(self.num_groups, dim=0) for x in (self.memory, self.valid_ratios))
        query, references = (x.reshape(memory.size(0), -1, x.size(-1)) for x in (self.query, self.references))
        hidden, references = decoder(
            query=query, value=memory, self_attn_mask=None, reference_points=references, valid_ratios=ratios, **shared
        )
        return hidden.reshape(len(hidden), *self.query.shape), references[-1].reshape(self.references.shape)

    def loss(self, arm: str) -> Tensor:
        """A number to send backward."""
        hidden, references = self.outputs(arm)
        return hidden.pow(2).mean() + references.mean()

    def arms(self) -> dict[str, Callable[[], Tensor]]:
        """All, to be measured."""
        return {arm: partial(self.loss, arm) for arm in self.decoders}

    def gradients(self, arm: str) -> tuple[Tensor, ...]:
        """Outputs and the gradients of memory and queries."""
        hidden, references = self.outputs(arm)
        loss = hidden.pow(2).mean() + references.mean()
        return hidden, references, *torch.autograd.grad(loss, (self.memory, self.query))

    def memory_side(self, arm: str) -> int:
        """Bytes that the forward pass keeps for backward on the memory's side (``N`` tokens, or their maps)."""
        maps, num_tokens = {tuple(shape) for shape in self.shapes.tolist()}, self.memory.size(1)

        def of_memory(tensor: Tensor) -> bool:
            return any(n and n % num_tokens == 0 for n in tensor.shape) or tuple(tensor.shape[-2:]) in maps

        return kept_bytes(partial(self.loss, arm), of_memory)


def build_step(arm: str, ffn: int, device: str, sizes: dict) -> Callable[[], None]:
    """Return a forward and backward pass, for `measure.peak_bytes`."""
    case = DecoderCase(ffn, device, **sizes)
    return lambda: case.loss(arm).backward()
