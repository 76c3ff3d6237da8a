"""Weights of masked autoencoders in the names of others, for mmpretrain's ``MAEViT`` and ``MAE``.

Not in the paper (arXiv 2309.09571). FAIR's names (the MAE repository; timm's ViTs have them too) and those of
transformers' ``ViTMAE``.
"""

from __future__ import annotations

import re

from torch import Tensor

from ...utils.weights import join_qkv

# FAIR's, without the prefix of encoder or decoder.
FAIR = [
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^blocks\.', 'layers.'),
    (r'\.norm(\d)\.', r'.ln\1.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
    (r'^norm\.', 'ln1.'),
]
DECODER = [(r'^decoder_norm\.', 'ln1.'), *FAIR[2:5]]
# Transformers', to FAIR's; the rows of q, k and v are joined beforehand.
TRANSFORMERS = [
    (r'^vit\.', ''),
    (r'^decoder\.(?=decoder_|mask_token)', ''),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^embeddings\.cls_token$', 'cls_token'),
    (r'^encoder\.layer\.', 'blocks.'),
    (r'^decoder_layers\.', 'decoder_blocks.'),
    (r'\.attention\.output\.dense\.', '.attn.proj.'),
    (r'\.attention\.attention\.qkv\.', '.attn.qkv.'),
    (r'\.intermediate\.dense\.', '.mlp.fc1.'),
    (r'\.output\.dense\.', '.mlp.fc2.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'^layernorm\.', 'norm.'),
]


def to_mmpretrain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of a ViT or MAE with the names of mmpretrain's ``MAE``, ``backbone.`` and ``neck.`` before them.

    Weights that are named otherwise, mmpretrain's own for instance, are returned as they are.
    """
    if any(re.search(r'encoder\.layer\.0\.attention\.attention\.query\.weight$', name) for name in weights):
        weights = {rename(name, TRANSFORMERS): value for name, value in join_qkv(weights, ('weight', 'bias')).items()}
    if 'blocks.0.mlp.fc1.weight' not in weights:
        return weights
    return {to_mae(name): value for name, value in weights.items()}


def to_mae(name: str) -> str:
    """Return the name in mmpretrain's ``MAE`` of a weight of FAIR's."""
    if name == 'mask_token' or name.startswith('decoder_'):
        return f'neck.{rename(name, DECODER)}'
    return f'backbone.{rename(name, FAIR)}'


def rename(name: str, rules: list[tuple[str, str]]) -> str:
    """Apply replacements of regular expressions, one after the other."""
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name
