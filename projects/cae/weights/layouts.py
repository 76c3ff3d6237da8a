"""Names of the weights of CAE in our checkpoints and in those of others.

Layouts of whole models, of encoders alone, and of encoders with a classifier behind them:

* ``ours``: mmpretrain's names, ``backbone.``, ``neck.``, ``head.``;
* ``authors``: Atten4Vis/CAE, CAE and CAE v2, ``encoder.``, ``regresser.``, ``decoder.``;
* ``authors-old``: lxtGH/CAE, the first release of CAE, ``encoder.``, ``pretext_neck.``;
* ``beit``: encoders of the authors, fine-tuned or without their prefix; BEiT; timm's ``beit_*``;
* ``timm``: timm's ``vit_*``, one bias for query, key and value; MAE, DINO;
* ``hf``: ``Beit…`` of transformers;
* ``clip``: image tower of OpenAI and open_clip, ``visual.``; read only.

In a rule ``#`` is the number of a block and ``*`` is ``weight`` or ``bias``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mmplugins.utils.weights import join_qkv

from ..tokens import grid_of_table, sincos_table
from .parts import (
    State,
    add_zero_positions,
    fuse_bias,
    reshape_clip,
    split_bias,
    split_qkv,
    spread_shared_table,
)
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
CLASSIFIER = [('fc_norm.*', 'backbone.ln2.*'), ('head.*', 'head.fc.*')]
TABLE = 'attn.relative_position_bias_table'
QKV = 'attention.attention.'
HF_STEM = [
    ('embeddings.cls_token', 'cls_token'),
    ('embeddings.position_embeddings', 'pos_embed'),
    ('embeddings.patch_embeddings.projection.*', 'patch_embed.projection.*'),
    ('layernorm.*', 'ln1.*'),
    ('pooler.layernorm.*', 'ln2.*'),
]
HF_BLOCK = [
    ('layernorm_before.*', 'ln1.*'),
    ('layernorm_after.*', 'ln2.*'),
    (f'{QKV}qkv.weight', 'attn.qkv.weight'),
    (f'{QKV}query.bias', 'attn.q_bias'),
    (f'{QKV}value.bias', 'attn.v_bias'),
    (f'{QKV}relative_position_bias.relative_position_bias_table', TABLE),
    ('attention.output.dense.*', 'attn.proj.*'),
    ('intermediate.dense.*', 'ffn.layers.0.0.*'),
    ('output.dense.*', 'ffn.layers.1.*'),
    ('lambda_1', 'gamma_1'),
    ('lambda_2', 'gamma_2'),
]
CLIP_STEM = [
    ('class_embedding', 'cls_token'),
    ('positional_embedding', 'pos_embed'),
    ('conv1.*', 'patch_embed.projection.*'),
    ('ln_pre.*', 'pre_norm.*'),
    ('ln_post.*', 'ln1.*'),
]
CLIP_BLOCK = [
    ('ln_1.*', 'ln1.*'),
    ('ln_2.*', 'ln2.*'),
    ('attn.in_proj_weight', 'attn.qkv.weight'),
    ('attn.q_bias', 'attn.q_bias'),
    ('attn.v_bias', 'attn.v_bias'),
    ('attn.out_proj.*', 'attn.proj.*'),
    ('mlp.c_fc.*', 'ffn.layers.0.0.*'),
    ('mlp.c_proj.*', 'ffn.layers.1.*'),
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
    'timm': [
        *nested(STEM, '', 'backbone.'),
        ('norm_pre.*', 'backbone.pre_norm.*'),
        *nested([rule for rule in BLOCK if 'gamma' not in rule[0]], 'blocks.#.', 'backbone.layers.#.'),
        *((f'blocks.#.ls{i}.gamma', f'backbone.layers.#.gamma_{i}') for i in (1, 2)),
        *CLASSIFIER,
    ],
    'beit': [
        *nested(STEM, '', 'backbone.'),
        *nested([*BLOCK, (TABLE, TABLE)], 'blocks.#.', 'backbone.layers.#.'),
        *CLASSIFIER,
    ],
    'hf': [
        *nested(HF_STEM, 'beit.', 'backbone.'),
        *nested(HF_BLOCK, 'beit.encoder.layer.#.', 'backbone.layers.#.'),
        ('classifier.*', 'head.fc.*'),
    ],
    'clip': [
        *nested(CLIP_STEM, '', 'backbone.'),
        *nested(CLIP_BLOCK, 'transformer.resblocks.#.', 'backbone.layers.#.'),
    ],
}
# The copy of the encoder that makes the alignment target; it is the encoder.
COPIES = {'authors': 'alignment_encoder.', 'authors-old': 'teacher.'}
# Of the pretraining of MAE, BEiT and DINO, and of the heads that these and timm put behind an encoder; and what is
# computed anew when a model is built.
BESIDE_ENCODERS = ('mask_token', 'decoder_', 'lm_head.', 'head.mlp.', 'head.last_layer.', 'attn_pool.')
COMPUTED = ('relative_position_index',)


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
    signs = [('backbone.blocks.', 'timm'), ('backbone.', 'ours'), ('pretext_neck.', 'authors-old')]
    signs += [('teacher.', 'authors-old'), ('encoder.layer.', 'hf'), ('beit.', 'hf'), ('encoder.', 'authors')]
    signs += [('blocks.', 'timm'), ('visual.', 'clip')]
    for prefix, layout in signs:
        if any(name.startswith(prefix) for name in state):
            return 'beit' if layout == 'timm' and 'blocks.0.attn.q_bias' in state else layout
    raise ValueError(f'not a checkpoint of CAE or of a ViT: {names(list(state)) or "no weights"}')


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
    state = {name: value for name, value in state.items() if not name.endswith(COMPUTED)}
    if layout == 'ours':
        parts = ('backbone.', 'neck.', 'head.fc.')
        result = {name: value for name, value in state.items() if name.startswith(parts)}
    else:
        result = translate(read_parts(state, layout), RULES[layout])
    if layout in ('beit', 'hf'):
        result = add_zero_positions(result)
    mask_token, table = result.get('neck.mask_token'), result.get('backbone.pos_embed')
    if mask_token is not None and table is not None and 'neck.pos_embed' not in result:
        result['neck.pos_embed'] = sincos_table(grid_of_table(table), mask_token.shape[-1]).to(table)
    check_complete(result)
    return result


def read_parts(state: State, layout: str) -> State:
    """Leave out what has no place here, and join and split weights as ours are."""
    if layout in COPIES:
        return {name: value for name, value in state.items() if not name.startswith(tuple(COPIES.values()))}
    if layout == 'clip':
        return reshape_clip(state)
    if layout == 'hf':
        prefixed = {f'beit.{name.removeprefix("beit.")}': value for name, value in state.items()}
        return join_qkv({name.replace('beit.classifier', 'classifier'): value for name, value in prefixed.items()})
    state = {name.removeprefix('backbone.'): value for name, value in state.items()}  # DINO's have one
    state = {name: value for name, value in state.items() if not name.startswith(BESIDE_ENCODERS)}
    return split_bias(state) if layout == 'timm' else spread_shared_table(state)


def from_ours(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Rename our weights to those of another layout; the inverse of :func:`to_ours`.

    Args:
        state: Ours. What is not of the student (target networks, buffers of the preprocessor) is left out.
        layout: ``'authors'``, ``'authors-old'``, ``'timm'`` or ``'hf'``, of which the last two have no place for
            regressor and decoder. A model with relative position bias becomes timm's ``beit_*``, any other a ``vit_*``.

    Returns:
        New dict, the same tensors. A whole CAE gets the copy of its encoder that the authors' class holds.

    Raises:
        ValueError: As :func:`to_ours`, or the layout has no place for a weight.
    """
    state = to_ours(state, 'ours')
    if layout == 'ours':
        return state
    state = split_bias(state)
    is_whole = any(name.startswith('neck.') for name in state)
    has_table = any(name.endswith(TABLE) for name in state)
    if layout in ('timm', 'hf'):
        state = {name: value for name, value in state.items() if not name.startswith('neck.')}
    if layout == 'timm' and has_table or layout != 'timm' and layout != 'hf' and 'backbone.ln2.weight' in state:
        layout = 'beit'
    if layout == 'authors-old':  # its class computes the table
        state.pop('neck.pos_embed', None)
    result = translate(state, [(ours, theirs) for theirs, ours in RULES[layout]])
    if layout == 'timm':
        return fuse_bias(result)
    if layout == 'hf':
        return split_qkv(result)
    if is_whole and any(name.startswith('neck.decoders.') for name in state):
        copies = {name: value for name, value in result.items() if name.startswith('encoder.')}
        result.update({COPIES[layout] + name.removeprefix('encoder.'): value for name, value in copies.items()})
    return result


def encoder_of(state: Mapping[str, Tensor], layout: str | None = None) -> dict[str, Tensor]:
    """Rename the weights of an encoder to ours and leave out the rest: in a file of ours, whatever it is.

    Args:
        state: Weights of a pretraining, a classifier, a probe, a detector or a segmentation model.
        layout: As in :func:`to_ours`.

    Raises:
        ValueError: As :func:`to_ours`.
    """

    def only(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if name.startswith('backbone.')}

    layout = layout or layout_of(state)
    return only(to_ours(only(state) if layout == 'ours' else state, layout))
