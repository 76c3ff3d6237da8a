"""What layouts join or split differently: biases and weights of attention, tables, CLIP's tensors.

Shapes: ``D`` channels, ``N`` patches, ``H`` heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]


def split_bias(state: Mapping[str, Tensor]) -> State:
    """Split one bias (3D,), timm's; that of the keys moves all logits of a query alike, so it has no effect."""
    result = {}
    for name, value in state.items():
        if name.endswith('.attn.qkv.bias'):
            prefix = name.removesuffix('qkv.bias')
            result[f'{prefix}q_bias'], _, result[f'{prefix}v_bias'] = value.chunk(3)
        else:
            result[name] = value
    return result


def fuse_bias(state: Mapping[str, Tensor]) -> State:
    """Join q_bias and v_bias to timm's one bias, with zeros for the keys."""
    result = {}
    for name, value in state.items():
        if name.endswith('.attn.q_bias'):
            v_bias = state[f'{name.removesuffix("q_bias")}v_bias']
            result[f'{name.removesuffix("q_bias")}qkv.bias'] = torch.cat([value, torch.zeros_like(value), v_bias])
        elif not name.endswith('.attn.v_bias'):
            result[name] = value
    return result


def split_qkv(state: Mapping[str, Tensor]) -> State:
    """Undo :func:`mmplugins.utils.weights.join_qkv`."""
    result = {}
    for name, value in state.items():
        if name.endswith('attention.qkv.weight'):
            prefix = name.removesuffix('qkv.weight')
            result.update(
                zip((f'{prefix}{part}.weight' for part in ('query', 'key', 'value')), value.chunk(3), strict=True)
            )
        else:
            result[name] = value
    return result


def spread_shared_table(state: Mapping[str, Tensor]) -> State:
    """Give each layer the bias table (T, H) that BEiT's share in its pretraining, as BEiT does for fine-tuning."""
    shared = 'rel_pos_bias.relative_position_bias_table'
    result = {name: value for name, value in state.items() if name != shared}
    if shared in state:
        for name in state:
            if name.endswith('.attn.qkv.weight'):
                result[name.replace('qkv.weight', 'relative_position_bias_table')] = state[shared].clone()
    return result


def add_zero_positions(state: State) -> State:
    """Add a position table of zeros (1, 1 + N, D) where the file, BEiT's, has bias tables of a square grid only."""
    table = next((value for name, value in state.items() if name.endswith('relative_position_bias_table')), None)
    if table is not None and 'backbone.pos_embed' not in state:
        side = (math.isqrt(len(table) - 3) + 1) // 2
        cls_token = state['backbone.cls_token']
        state['backbone.pos_embed'] = torch.zeros(1, 1 + side**2, cls_token.size(-1), dtype=cls_token.dtype)
    return state


def reshape_clip(state: Mapping[str, Tensor]) -> State:
    """Give CLIP's image tower the shapes of ours: a class token (1, 1, D), a table (1, 1 + N, D), a bias of zeros."""
    result = {
        name.removeprefix('visual.'): value
        for name, value in state.items()
        if name.startswith('visual.') and name != 'visual.proj'
    }
    result['class_embedding'] = result['class_embedding'][None, None]
    result['positional_embedding'] = result['positional_embedding'][None]
    result['conv1.bias'] = torch.zeros_like(result['class_embedding'][0, 0])
    for name in [name for name in result if name.endswith('attn.in_proj_bias')]:
        prefix = name.removesuffix('in_proj_bias')
        result[f'{prefix}q_bias'], _, result[f'{prefix}v_bias'] = result.pop(name).chunk(3)
    return result
