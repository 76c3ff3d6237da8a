"""Names of the weights of CAE in our checkpoints, in the authors', and in timm's ViT.

Layouts, all of one model:

* ``ours``: mmpretrain's names, ``backbone.`` and ``neck.``;
* ``authors``: Atten4Vis/CAE, CAE and CAE v2, ``encoder.``, ``regresser.``, ``decoder.``;
* ``authors-old``: lxtGH/CAE, the first release of CAE, ``encoder.``, ``pretext_neck.``;
* ``timm``: ``vit_*_patch16_224`` with ``init_values``, the encoder only, one bias for query, key and value.

In a rule ``#`` is the number of a block and ``*`` is ``weight`` or ``bias``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..tokens import grid_of_table, sincos_table
from .shapes import check_complete, names

ATTENTION = [('q_bias', 'q_bias'), ('v_bias', 'v_bias'), ('proj.*', 'proj.*')]
MLP = [('fc1.*', 'layers.0.0.*'), ('fc2.*', 'layers.1.*')]
BLOCK = [
    ('norm1.*', 'ln1.*'),
    ('norm2.*', 'ln2.*'),
    ('attn.qkv.weight', 'attn.qkv.weight'),
    *((f'attn.{theirs}', f'attn.{ours}') for theirs, ours in ATTENTION),
    *((f'mlp.{theirs}', f'ffn.{ours}') for theirs, ours in MLP),
    ('gamma_1', 'gamma_1'),
    ('gamma_2', 'gamma_2'),
]
REGRESSOR = [
    *((f'norm1_{part}.*', f'norm1_{part}_cross.*') for part in 'qkv'),
    ('norm2_cross.*', 'norm2_cross.*'),
    *((f'cross_attn.{part}.weight', f'cross_attn.{part}.weight') for part in 'qkv'),
    *((f'cross_attn.{theirs}', f'cross_attn.{ours}') for theirs, ours in ATTENTION),
    *((f'mlp_cross.{theirs}', f'ffn.{ours}') for theirs, ours in MLP),
    ('gamma_1_cross', 'gamma_1_cross'),
    ('gamma_2_cross', 'gamma_2_cross'),
]
STEM = [
    ('cls_token', 'cls_token'),
    ('pos_embed', 'pos_embed'),
    ('patch_embed.proj.*', 'patch_embed.projection.*'),
    ('norm.*', 'ln1.*'),
]


def nested(rules: list[tuple[str, str]], theirs: str, ours: str) -> list[tuple[str, str]]:
    """Put prefixes before both names of each rule."""
    return [(theirs + left, ours + right) for left, right in rules]


ENCODER = nested(STEM, 'encoder.', 'backbone.') + nested(BLOCK, 'encoder.blocks.#.', 'backbone.layers.#.')
RULES = {
    'authors': [
        *ENCODER,
        ('encoder_to_regresser.*', 'neck.projection.*'),
        ('encoder_to_regresser_norm.*', 'neck.norm_projection.*'),
        ('rd_pos_embed', 'neck.pos_embed'),
        *nested(REGRESSOR, 'regresser.regressor_blocks.#.', 'neck.regressors.#.'),
        ('regresser.norm.*', 'neck.norm_regressor.*'),
        ('mask_token', 'neck.mask_token'),
        *nested(BLOCK, 'decoder.decoder_blocks.#.', 'neck.decoders.#.'),
        ('decoder.norm.*', 'neck.norm_decoder.*'),
        ('decoder.head.*', 'neck.head.*'),
    ],
    'authors-old': [
        *ENCODER,
        ('encoder_to_decoder.*', 'neck.projection.*'),
        ('encoder_to_decoder_norm.*', 'neck.norm_projection.*'),
        *nested(REGRESSOR, 'pretext_neck.regressor_blocks.#.', 'neck.regressors.#.'),
        ('pretext_neck.norm.*', 'neck.norm_regressor.*'),
        ('mask_token', 'neck.mask_token'),
        *nested(BLOCK, 'pretext_neck.decoder_blocks.#.', 'neck.decoders.#.'),
        ('pretext_neck.norm2.*', 'neck.norm_decoder.*'),
        ('pretext_neck.head.*', 'neck.head.*'),
    ],
    'timm': nested(STEM, '', 'backbone.')
    + nested([rule for rule in BLOCK if 'gamma' not in rule[0]], 'blocks.#.', 'backbone.layers.#.')
    + [(f'blocks.#.ls{i}.gamma', f'backbone.layers.#.gamma_{i}') for i in (1, 2)],
}
# The copy of the encoder that makes the alignment target; it is the encoder.
COPIES = {'authors': 'alignment_encoder.', 'authors-old': 'teacher.'}


def translate(state: Mapping[str, Tensor], rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename all weights.

    Raises:
        ValueError: A name that no rule knows; all are listed.
    """
    patterns = []
    for source, target in rules:
        pattern = re.escape(source).replace(r'\#', r'(\d+)').replace(r'\*', '(weight|bias)')
        numbers = iter((r'\g<1>', r'\g<2>'))
        patterns.append((re.compile(pattern), re.sub(r'[#*]', lambda _, numbers=numbers: next(numbers), target)))
    found, unknown = {}, []
    for name, value in state.items():
        match = next(((p.fullmatch(name), t) for p, t in patterns if p.fullmatch(name)), None)
        if match is None:
            unknown.append(name)
        else:
            found[match[0].expand(match[1])] = value
    if unknown:
        raise ValueError(f'unknown weights: {names(unknown)}')
    return found


def layout_of(state: Mapping[str, Tensor]) -> str:
    """Tell the layout of a checkpoint by its names.

    Raises:
        ValueError: It is none of those at the top of this file.
    """
    signs = [('backbone.', 'ours'), ('pretext_neck.', 'authors-old'), ('teacher.', 'authors-old')]
    signs += [('encoder.', 'authors'), ('blocks.', 'timm')]
    for prefix, layout in signs:
        if any(name.startswith(prefix) for name in state):
            # Encoders alone are the same in both releases; some have lost their prefix.
            return 'authors' if layout == 'timm' and 'blocks.0.attn.q_bias' in state else layout
    raise ValueError(f'not a checkpoint of CAE: {names(list(state)) or "no weights"}')


def to_ours(state: Mapping[str, Tensor], layout: str | None = None) -> dict[str, Tensor]:
    """Rename the weights of another layout to ours, and check that they are a whole model.

    Args:
        state: Weights of a whole pretraining model or of its encoder.
        layout: See the top of this file; None: told by the names.

    Returns:
        New dict, the same tensors. The copy of the encoder is left out. The position table of the regressor, which
        the first release does not save, is added.

    Raises:
        ValueError: Weights are unknown, missing or of a wrong size; all are named.
    """
    layout = layout or layout_of(state)
    if layout == 'ours':
        parts = ('backbone.', 'neck.')
        result = {name: value for name, value in state.items() if name.startswith(parts)}
    else:
        state = {name: value for name, value in state.items() if not name.startswith(tuple(COPIES.values()))}
        if layout == 'timm':
            state = split_bias({name: value for name, value in state.items() if not name.startswith('head.')})
        elif 'cls_token' in state:  # the encoder alone, without its prefix
            state = {f'encoder.{name}': value for name, value in state.items()}
        result = translate(state, RULES[layout])
    mask_token, table = result.get('neck.mask_token'), result.get('backbone.pos_embed')
    if mask_token is not None and table is not None and 'neck.pos_embed' not in result:
        result['neck.pos_embed'] = sincos_table(grid_of_table(table), mask_token.shape[-1]).to(table)
    check_complete(result)
    return result


def from_ours(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Rename our weights to those of another layout; the inverse of :func:`to_ours`.

    Args:
        state: Ours. What is not of the student (target networks, buffers of the preprocessor) is left out.
        layout: ``'authors'``, ``'authors-old'``, or ``'timm'``, which takes the encoder only.

    Returns:
        New dict, the same tensors. A whole CAE gets the copy of its encoder that the authors' class holds.

    Raises:
        ValueError: As :func:`to_ours`, or the layout has no place for a weight.
    """
    state = to_ours(state, 'ours')
    if layout == 'ours':
        return state
    if layout == 'timm':
        return fuse_bias(translate(encoder_of(state), [(ours, theirs) for theirs, ours in RULES[layout]]))
    if layout == 'authors-old':  # its class computes the table
        state.pop('neck.pos_embed', None)
    result = translate(state, [(ours, theirs) for theirs, ours in RULES[layout]])
    if any(name.startswith('neck.decoders.') for name in state):
        copies = {name: value for name, value in result.items() if name.startswith('encoder.')}
        result.update({COPIES[layout] + name.removeprefix('encoder.'): value for name, value in copies.items()})
    return result


def encoder_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep the encoder of a model in our layout."""
    return {name: value for name, value in state.items() if name.startswith('backbone.')}


def split_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split timm's one bias (3D,); that of the keys moves all logits of a query alike, so it has no effect."""
    result = {}
    for name, value in state.items():
        if name.endswith('.attn.qkv.bias'):
            prefix = name.removesuffix('qkv.bias')
            result[f'{prefix}q_bias'], _, result[f'{prefix}v_bias'] = value.chunk(3)
        else:
            result[name] = value
    return result


def fuse_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join q_bias and v_bias to timm's one bias, with zeros for the keys."""
    result = {}
    for name, value in state.items():
        if name.endswith('.attn.q_bias'):
            v_bias = state[f'{name.removesuffix("q_bias")}v_bias']
            result[f'{name.removesuffix("q_bias")}qkv.bias'] = torch.cat([value, torch.zeros_like(value), v_bias])
        elif not name.endswith('.attn.v_bias'):
            result[name] = value
    return result
