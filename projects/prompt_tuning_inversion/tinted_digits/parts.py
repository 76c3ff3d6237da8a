"""The parts of a tiny latent diffusion model, of the classes that Stable Diffusion 1.x is made of.

Not in the paper. The sizes are chosen so that training takes minutes on one core and the folder is a few megabytes; its
layout is that of any diffusers folder, so what runs on it runs on Stable Diffusion.
"""

from __future__ import annotations

import json
import string
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import require
from .dataset import COLORS, DIGITS

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

WORDS = ('a', *COLORS, *DIGITS)
MAX_LENGTH = 8  # begin, three words, end; the rest is padding
# The noise schedule of Stable Diffusion 1.x.
SCHEDULER = dict(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear', clip_sample=False,
    set_alpha_to_one=False, steps_offset=1, prediction_type='epsilon', timestep_spacing='leading',
)  # fmt: skip


def merges_of(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges with which every word is one token.

    A merge that an earlier word needs has a lower rank and comes first, so the words are done one after the other: what
    the merges so far leave of a word is joined from the left.
    """
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = [*word[:-1], f'{word[-1]}</w>']
        for left, right in merges:  # in the order of rank, as the tokenizer does it
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == (left, right):
                    parts[place : place + 2] = [left + right]
                place += 1
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
    return merges


def build_tokenizer(words: Sequence[str] = WORDS, max_length: int = MAX_LENGTH) -> CLIPTokenizer:
    """A CLIP tokenizer that knows ``words`` and spells all others in letters."""
    merges = merges_of(words)
    letters = string.ascii_lowercase + string.digits
    tokens = [*letters, *(f'{letter}</w>' for letter in letters), *(left + right for left, right in merges)]
    tokens += ['<|startoftext|>', '<|endoftext|>']
    with tempfile.TemporaryDirectory() as folder:
        vocab, rules = Path(folder, 'vocab.json'), Path(folder, 'merges.txt')
        vocab.write_text(json.dumps({token: number for number, token in enumerate(dict.fromkeys(tokens))}))
        rules.write_text('\n'.join(['#version: 0.2', *(' '.join(pair) for pair in merges)]) + '\n')
        tokenizer = require('transformers').CLIPTokenizer(str(vocab), str(rules), model_max_length=max_length)
    return tokenizer


def build_text_encoder(tokenizer: CLIPTokenizer, width: int = 64, layers: int = 2, heads: int = 4) -> CLIPTextModel:
    """A CLIP text model for the tokenizer, not trained."""
    transformers = require('transformers')
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.CLIPTextModel(config)


def vae_config(channels: Sequence[int] = (16, 32, 32), latent_channels: int = 4, norm_num_groups: int = 8) -> dict:
    """Arguments of ``AutoencoderKL``; the downscaling is ``2 ** (len(channels) - 1)``."""
    return dict(
        block_out_channels=tuple(channels),
        down_block_types=('DownEncoderBlock2D',) * len(channels),
        up_block_types=('UpDecoderBlock2D',) * len(channels),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=norm_num_groups,
        sample_size=32,
    )


def unet_config(
    channels: Sequence[int] = (48, 64),
    latent_channels: int = 4,
    cross_attention_dim: int = 64,
    sample_size: int | Sequence[int] = 8,
) -> dict:
    """Arguments of ``UNet2DConditionModel``: cross-attention at every level, one layer a block."""
    return dict(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(channels),
        down_block_types=('CrossAttnDownBlock2D',) * len(channels),
        up_block_types=('CrossAttnUpBlock2D',) * len(channels),
        layers_per_block=1,
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=4,  # the number of heads; diffusers kept the wrong name
        norm_num_groups=8,
    )
