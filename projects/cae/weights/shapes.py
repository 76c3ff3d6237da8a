"""Sizes that the weights of CAE must have to fit each other: is a checkpoint a whole model? Names are ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

QV_BIAS, QKV_BIAS = {'attn.q_bias': 1, 'attn.v_bias': 1}, {'attn.qkv.bias': 3}


def check_complete(state: Mapping[str, Tensor]) -> None:
    """Check that weights in our layout are a whole encoder, or a whole pretraining model, of sizes that fit.

    An encoder alone need not have a norm behind its layers; the detectors' has none.

    Raises:
        ValueError: Weights are missing, unknown or of a wrong size; all are named.
    """
    expected = expected_shapes(state)
    problems = {
        'missing': [name for name in expected if name not in state],
        'unknown': [name for name in state if name not in expected],
        'of a wrong size': [
            f'{name} {tuple(state[name].shape)}, not {shape}'
            for name, shape in expected.items()
            if name in state and tuple(state[name].shape) != shape
        ],
    }
    if any(problems.values()):
        raise ValueError('; '.join(f'weights {what}: {names(which)}' for what, which in problems.items() if which))


def expected_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all weights of the model that the tokens, patches, blocks and outputs of ``state`` tell."""

    def need(name: str) -> torch.Size:
        if name not in state:
            raise ValueError(f'weights missing: {name}')
        return state[name].shape

    def stack(prefix: str) -> int:
        return 1 + max((int(name.split('.')[2]) for name in state if name.startswith(prefix)), default=-1)

    def hidden(prefix: str, dim: int) -> int:
        first = state.get(f'{prefix}0.ffn.layers.0.0.weight')
        return 4 * dim if first is None else len(first)

    dim = need('backbone.cls_token')[-1]
    shapes = {
        'backbone.cls_token': (1, 1, dim),
        'backbone.pos_embed': (1, need('backbone.pos_embed')[1], dim),
        'backbone.patch_embed.projection.weight': (dim, *need('backbone.patch_embed.projection.weight')[1:]),
        'backbone.patch_embed.projection.bias': (dim,),
    }
    is_whole = any(name.startswith('neck.') for name in state)
    # A fine-tuned model has a norm of its pooled tokens in the place of that of all tokens, a detector none.
    norms = [name for name in ('pre_norm', 'ln1', 'ln2') if f'backbone.{name}.weight' in state]
    for name in norms if not is_whole or {'ln1', 'ln2'} & set(norms) else ['ln1']:
        shapes.update(weight_and_bias(f'backbone.{name}', dim))
    biases = attention_biases(state)
    scaled = any(name.startswith('backbone.') and name.endswith('gamma_1') for name in state)
    tables = [tuple(value.shape) for name, value in state.items() if name.endswith('relative_position_bias_table')]
    for i in range(stack('backbone.layers.')):
        shapes.update(block_shapes(f'backbone.layers.{i}.', dim, scaled, hidden('backbone.layers.', dim), biases))
        if tables:
            shapes[f'backbone.layers.{i}.attn.relative_position_bias_table'] = tables[0]
    if 'head.fc.weight' in state:
        shapes.update(weight_and_bias('head.fc', len(state['head.fc.weight']), dim))
    if not is_whole:
        return shapes
    width, outputs = need('neck.mask_token')[-1], need('neck.head.weight')[0]
    shapes['neck.mask_token'] = (1, 1, width)
    shapes['neck.pos_embed'] = (1, need('backbone.pos_embed')[1], width)
    if width != dim:
        shapes.update(
            {**weight_and_bias('neck.projection', width, dim), **weight_and_bias('neck.norm_projection', width)}
        )
    for i in range(stack('neck.regressors.')):
        shapes.update(regressor_shapes(f'neck.regressors.{i}.', width, hidden('neck.regressors.', width)))
    for i in range(stack('neck.decoders.')):
        scaled = any('decoders.0.gamma' in name for name in state)
        shapes.update(block_shapes(f'neck.decoders.{i}.', width, scaled, hidden('neck.decoders.', width), QV_BIAS))
    shapes.update({**weight_and_bias('neck.norm_regressor', width), **weight_and_bias('neck.norm_decoder', width)})
    return {**shapes, **weight_and_bias('neck.head', outputs, width)}


def weight_and_bias(name: str, *size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a weight of a size and its bias."""
    return {f'{name}.weight': size, f'{name}.bias': size[:1]}


def attention_biases(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Biases in the attention of the encoder, as ``bias`` of ``CAEViT`` is, and their lengths as multiples of ``D``."""
    own = [name for name in state if name.startswith('backbone.layers.')]
    for kind in (QV_BIAS, QKV_BIAS):
        if any(name.endswith(tuple(kind)) for name in own):
            return kind
    return {}


def block_shapes(
    prefix: str, dim: int, scaled: bool, hidden: int, biases: dict[str, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of an encoder block."""
    shapes = {
        **weight_and_bias('ln1', dim),
        **weight_and_bias('ln2', dim),
        'attn.qkv.weight': (3 * dim, dim),
        **weight_and_bias('attn.proj', dim, dim),
    }
    shapes.update({**weight_and_bias('ffn.layers.0.0', hidden, dim), **weight_and_bias('ffn.layers.1', dim, hidden)})
    shapes.update({name: (times * dim,) for name, times in biases.items()})
    shapes.update(dict.fromkeys(('gamma_1', 'gamma_2') if scaled else (), (dim,)))
    return {prefix + name: shape for name, shape in shapes.items()}


def regressor_shapes(prefix: str, dim: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a block of the regressor."""
    shapes = {**weight_and_bias('norm2_cross', dim), **weight_and_bias('cross_attn.proj', dim, dim)}
    for part in 'qkv':
        shapes.update({**weight_and_bias(f'norm1_{part}_cross', dim), f'cross_attn.{part}.weight': (dim, dim)})
    shapes.update({**weight_and_bias('ffn.layers.0.0', hidden, dim), **weight_and_bias('ffn.layers.1', dim, hidden)})
    shapes.update(dict.fromkeys(('cross_attn.q_bias', 'cross_attn.v_bias', 'gamma_1_cross', 'gamma_2_cross'), (dim,)))
    return {prefix + name: shape for name, shape in shapes.items()}


def names(which: list[str], most: int = 8) -> str:
    """Join names for a message, the first ``most`` of them."""
    return ', '.join(which[:most]) + (f' and {len(which) - most} more' if len(which) > most else '')
