"""Start an encoder from a file: of CAE, timm, MAE, DINO, BEiT or CLIP, without leaving holes.

Not in the papers: our decision, because most of what is wrong here loads in silence and gives other features.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from mmplugins.utils.weights import read_checkpoint

from ..sizes import ARCHS, arch_of
from .layouts import encoder_of, layout_of
from .parts import State
from .shapes import names

HEAD_CHANNELS = 64  # of the ViTs of timm, MAE, DINO, BEiT and CLIP


def heads_of(state: Mapping[str, Tensor], layout: str = 'ours') -> int | None:
    """Return the number of heads of an encoder in our layout; None where nothing tells it.

    Bias tables have a column for each; no other weight shows it. CAE's Ti and S have 12, others' ViTs one for each 64
    channels.

    Args:
        state: With our names.
        layout: Of the file that it comes from.
    """
    tables = [value for name, value in state.items() if name.endswith('relative_position_bias_table')]
    if tables:
        return tables[0].size(1)
    dims = state['backbone.cls_token'].size(-1)
    if layout in ('timm', 'clip', 'hf'):
        return dims // HEAD_CHANNELS or None
    return {arch['embed_dims']: arch['num_heads'] for arch in ARCHS.values()}.get(dims)


def heads_in_config(text: str, dims: int) -> int | None:
    """Return the number of heads that the text of a config says, as checkpoints of mmengine hold it; None if not.

    Args:
        text: Of which nothing is run.
        dims: Channels of the encoder; a backbone of another width is not the one that is asked for.
    """
    try:
        lines = [line for line in ast.parse(text).body if isinstance(line, ast.Assign)]
        found = next(line.value for line in lines if line.targets[0].id == 'model')
        for key in ('backbone', 'arch'):
            found = next(entry.value for entry in found.keywords if entry.arg == key)
        if isinstance(found, ast.Call):  # dict(embed_dims=…)
            arch = {entry.arg: ast.literal_eval(entry.value) for entry in found.keywords}
        else:
            arch = arch_of(ast.literal_eval(found))
        return arch['num_heads'] if arch['embed_dims'] == dims else None
    except (AttributeError, KeyError, StopIteration, SyntaxError, TypeError, ValueError):  # written in another way
        return None


def read_model(
    source: str, rename: Callable[[State, str], State], num_heads: int | None = None, prefix: str | None = None
) -> tuple[State, str, int | None]:
    """Read a file of any layout.

    Args:
        source: File or address.
        rename: :func:`to_ours`, or :func:`encoder_of` for the encoder alone.
        num_heads: Of the file, where neither it nor its size tells it.
        prefix: Of a file of ours, cut off where it is not ``'backbone.'``.

    Returns:
        Weights with our names, the layout of the file, and the number of heads: from ``meta``, where ``convert`` notes
        it, or the config in it, from the ``config.json`` of transformers beside the file, or from :func:`heads_of`.
        A custom ``arch`` in a file of ours that says nothing may have any number: None.

    Raises:
        ValueError: See :func:`to_ours`.
    """
    state, meta = read_checkpoint(source)
    if prefix not in (None, 'backbone.'):
        state = {f'backbone.{name.removeprefix(prefix)}': v for name, v in state.items() if name.startswith(prefix)}
    try:
        layout = layout_of(state)
        state = rename(state, layout)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    stated, config = meta.get('num_heads'), Path(source).with_name('config.json')
    if layout == 'ours' and not stated and prefix in (None, 'backbone.'):
        stated = heads_in_config(str(meta.get('cfg', '')), state['backbone.cls_token'].size(-1))
    if layout == 'hf' and config.is_file():
        stated = json.loads(config.read_text(encoding='utf-8')).get('num_attention_heads')
    return state, layout, num_heads or stated or (None if layout == 'ours' else heads_of(state, layout))


def check_layer_scale(model: nn.Module, state: dict, prefix: str = '') -> None:
    """Compare weights with the encoder that they are about to be loaded into.

    Args:
        model: :class:`CAEViT`.
        state: With our names.
        prefix: Of the encoder in it.

    Raises:
        ValueError: The weights have LayerScale and the encoder has none, or the other way round.
    """
    layer = f'{prefix}layers.0.'
    has_scale = f'{layer}gamma_1' in state
    if f'{layer}attn.qkv.weight' in state and has_scale != (model.layers[0].gamma_1 is not None):
        advice = 'a number, as 0.1' if has_scale else 'None'
        raise ValueError(
            f'the weights have {"" if has_scale else "no "}LayerScale, unlike the model: set '
            f'layer_scale_init_value={advice} in the backbone'
        )


def load_encoder(model: nn.Module, source: str, num_heads: int | None = None, prefix: str | None = None) -> None:
    """Fill an encoder; tables of another grid are resized.

    What a file may lack starts as it is built: bias tables from zero, a norm of pooled tokens, where the file has one
    of all tokens, as a plain one.

    Args:
        model: :class:`CAEViT`.
        source: File or address.
        num_heads: Of the file, where neither it nor its size tells it.
        prefix: Of a file of ours, cut off where it is not ``'backbone.'``.

    Raises:
        ValueError: The file lacks weights, has some that the model has no place for, or is of another number of heads.
    """
    state, layout, found = read_model(source, encoder_of, num_heads, prefix)
    own = model.layers[0].attn.num_heads
    if found not in (None, own):
        raise ValueError(
            f'{source} ({layout}) is of a ViT with {found} heads, the model has {own}: no weight would show it. Set '
            f'num_heads={found} in an arch dict, or in init_cfg if the file really has {own}'
        )
    state = {name.removeprefix('backbone.'): value for name, value in state.items()}
    own = model.state_dict()
    norms = ('ln1.', 'ln2.')  # either is the last one
    extra = [name for name in state if name not in own and not name.startswith(norms)]
    if extra:
        raise ValueError(f'{source} has weights that the encoder has no place for: {names(extra)}')
    may_lack = ('ln2.',) if any(name.startswith(norms) for name in state) else ()
    try:
        if layout != 'ours':  # a learned table of others is of a square, whatever the grid of the model
            state['pos_embed'] = model.fit_table(state['pos_embed'])
        result = model.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f'{source} does not fit the encoder: {error}') from error
    missing = [n for n in result.missing_keys if 'relative_position' not in n and not n.startswith(may_lack)]
    if missing:
        raise ValueError(f'{source} lacks weights of the encoder: {names(missing)}')
