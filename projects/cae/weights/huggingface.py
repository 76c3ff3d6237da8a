"""A model of CAE as a folder of transformers: ``config.json`` and ``model.safetensors`` of its BEiT classes."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mmplugins.utils.atomic import replacing, write_text

from ..tokens import grid_of_table
from .layouts import from_ours
from .start import heads_of


def write_folder(state: dict[str, Tensor], folder: str | Path, num_heads: int | None = None) -> int:
    """Write an encoder (``BeitModel``), or with its classifier (``BeitForImageClassification``).

    Args:
        state: Weights with our names.
        folder: To write.
        num_heads: None: what :func:`heads_of` takes it for; it is printed if no weight shows it.

    Returns:
        How many weights were written.

    Raises:
        ImportError: There is no transformers.
        ValueError: The model has a norm in front of its layers, or none behind them, its images are not square, its
            number of heads is not known, or it is none of ours.
    """
    try:
        from safetensors.torch import save_file
        from transformers import BeitConfig
    except ImportError as error:
        raise ImportError('writing for transformers needs `pip install transformers`') from error
    weights = from_ours(state, 'hf')
    patch, dims = state['backbone.patch_embed.projection.weight'].shape[-1], state['backbone.cls_token'].shape[-1]
    has_head, grid = 'head.fc.weight' in state, grid_of_table(state['backbone.pos_embed'])
    if grid[0] != grid[1]:
        raise ValueError(f'BEiT of transformers takes square images; this model has a grid of {grid}')
    if not {'backbone.ln1.weight', 'backbone.ln2.weight'} & set(state):
        raise ValueError('BEiT of transformers has a norm behind its layers; this encoder has none')
    has_table = any(name.endswith('relative_position_bias_table') for name in state)
    if not num_heads:
        num_heads = heads_of(state)
        if not num_heads:
            raise ValueError(f'no weight shows the number of heads of a model of {dims} channels: add --num-heads')
        if not has_table:
            print(f'{num_heads} heads are assumed, as CAE has with {dims} channels; --num-heads says another number')
    config = BeitConfig(
        architectures=['BeitForImageClassification' if has_head else 'BeitModel'],
        hidden_size=dims,
        num_hidden_layers=1 + max(int(name.split('.')[2]) for name in state if name.startswith('backbone.layers.')),
        num_attention_heads=num_heads,
        intermediate_size=len(state['backbone.layers.0.ffn.layers.0.0.weight']),
        layer_norm_eps=1e-6,
        image_size=grid[0] * patch,
        patch_size=patch,
        num_channels=state['backbone.patch_embed.projection.weight'].shape[1],
        use_mask_token=False,
        use_absolute_position_embeddings=True,
        use_relative_position_bias=has_table,
        layer_scale_init_value=0.1 if 'backbone.layers.0.gamma_1' in state else 0,
        use_mean_pooling='backbone.ln2.weight' in state,
        num_labels=len(state['head.fc.weight']) if has_head else 2,
    )
    weights = {name: value.contiguous() for name, value in weights.items()}
    with replacing(Path(folder, 'model.safetensors')) as temporary:
        save_file(weights, temporary, metadata=dict(format='pt'))
    write_text(Path(folder, 'config.json'), config.to_json_string())
    return len(weights)
