"""Sizes that the weights of CAE must have to fit each other: is a checkpoint a whole model? Names are ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def check_complete(state: Mapping[str, Tensor]) -> None:
    """Check that weights in our layout are a whole encoder, or a whole pretraining model, of sizes that fit.

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

    dim = need('backbone.cls_token')[-1]
    shapes = {
        'backbone.cls_token': (1, 1, dim),
        'backbone.pos_embed': (1, need('backbone.pos_embed')[1], dim),
        'backbone.patch_embed.projection.weight': (dim, *need('backbone.patch_embed.projection.weight')[1:]),
        'backbone.patch_embed.projection.bias': (dim,),
        **pair('backbone.ln1', dim),
    }
    scaled = any(name.startswith('backbone.') and name.endswith('gamma_1') for name in state)
    for i in range(stack('backbone.layers.')):
        shapes.update(block_shapes(f'backbone.layers.{i}.', dim, scaled))
    if not any(name.startswith('neck.') for name in state):
        return shapes
    width, outputs = need('neck.mask_token')[-1], need('neck.head.weight')[0]
    shapes['neck.mask_token'] = (1, 1, width)
    shapes['neck.pos_embed'] = (1, need('backbone.pos_embed')[1], width)
    if width != dim:
        shapes.update({**pair('neck.projection', width, dim), **pair('neck.norm_projection', width)})
    for i in range(stack('neck.regressors.')):
        shapes.update(regressor_shapes(f'neck.regressors.{i}.', width))
    for i in range(stack('neck.decoders.')):
        shapes.update(block_shapes(f'neck.decoders.{i}.', width, any('decoders.0.gamma' in name for name in state)))
    shapes.update({**pair('neck.norm_regressor', width), **pair('neck.norm_decoder', width)})
    return {**shapes, **pair('neck.head', outputs, width)}


def pair(name: str, *size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a weight of a size and its bias."""
    return {f'{name}.weight': size, f'{name}.bias': size[:1]}


def block_shapes(prefix: str, dim: int, scaled: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of an encoder block."""
    shapes = {**pair('ln1', dim), **pair('ln2', dim), 'attn.qkv.weight': (3 * dim, dim), **pair('attn.proj', dim, dim)}
    shapes.update({**pair('ffn.layers.0.0', 4 * dim, dim), **pair('ffn.layers.1', dim, 4 * dim)})
    vectors = ('attn.q_bias', 'attn.v_bias', *(('gamma_1', 'gamma_2') if scaled else ()))
    shapes.update(dict.fromkeys(vectors, (dim,)))
    return {prefix + name: shape for name, shape in shapes.items()}


def regressor_shapes(prefix: str, dim: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a block of the regressor."""
    shapes = {**pair('norm2_cross', dim), **pair('cross_attn.proj', dim, dim)}
    for part in 'qkv':
        shapes.update({**pair(f'norm1_{part}_cross', dim), f'cross_attn.{part}.weight': (dim, dim)})
    shapes.update({**pair('ffn.layers.0.0', 4 * dim, dim), **pair('ffn.layers.1', dim, 4 * dim)})
    shapes.update(dict.fromkeys(('cross_attn.q_bias', 'cross_attn.v_bias', 'gamma_1_cross', 'gamma_2_cross'), (dim,)))
    return {prefix + name: shape for name, shape in shapes.items()}


def names(which: list[str], most: int = 8) -> str:
    """Join names for a message, the first ``most`` of them."""
    return ', '.join(which[:most]) + (f' and {len(which) - most} more' if len(which) > most else '')
