"""A diffusers pipeline from what people have: a folder, a single file; with LoRA and textual inversion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..extras import require
from .folder import check_folder, variant_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def open_pipeline(source: Path, dtype: torch.dtype, config: Path | None, arch: str | None) -> DiffusionPipeline:
    """Read a model from the disk, to the CPU.

    Args:
        source: A diffusers folder (weights whole or in shards, of any variant, ``safetensors`` or ``bin``), or a single
            file as other programs write it.
        dtype: Of UNet and text encoders; the autoencoder is in float32.
        config: For a single file: a diffusers folder of its family, of which configs and tokenizers are read.
        arch: What it must be.

    Raises:
        FileNotFoundError: It is not there, or a part of it is missing.
        ValueError: It is of another kind, or a single file without ``config``.
    """
    if source.is_file() and config is None:
        raise ValueError(
            f'{source} is a single file, which holds weights alone: name a diffusers folder of its family as config '
            '(--config), of which configs and tokenizers are read'
        )
    family = config if source.is_file() else source
    xl = check_folder(family, arch)
    kind = getattr(require('diffusers'), 'StableDiffusionXLPipeline' if xl else 'StableDiffusionPipeline')
    unused = dict(feature_extractor=None, image_encoder=None)
    if not xl:
        unused.update(safety_checker=None, requires_safety_checker=False)
    if source.is_file():
        pipeline = kind.from_single_file(str(source), config=str(config), local_files_only=True, **unused)
        for part in (pipeline.unet, *text_encoders(pipeline)):
            part.to(dtype)
        pipeline.vae.float()
        return pipeline
    dtypes = dict(default=dtype, vae=torch.float32)
    options = dict(local_files_only=True, low_cpu_mem_usage=False, variant=variant_of(source))
    return kind.from_pretrained(source, torch_dtype=dtypes, **options, **unused)


def text_encoders(pipeline: DiffusionPipeline) -> list[torch.nn.Module]:
    """One, or the two of SDXL."""
    second = getattr(pipeline, 'text_encoder_2', None)
    return [pipeline.text_encoder] if second is None else [pipeline.text_encoder, second]


def add_lora(pipeline: DiffusionPipeline, path: Path, scale: float) -> None:
    """Add a LoRA file, of any format that diffusers reads, to the weights, ``scale`` times.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds nothing for this model.
    """
    if not path.is_file():
        raise FileNotFoundError(f'no LoRA file {path}')
    require('peft', 'pip install --no-build-isolation -e ".[lora]"')
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
    if not pipeline.get_active_adapters():
        raise ValueError(f'{path} holds no LoRA for this model')
    pipeline.fuse_lora(lora_scale=scale)
    pipeline.unload_lora_weights()  # plain layers again, with the sum as weights


def add_words(pipeline: DiffusionPipeline, paths: Sequence[Path]) -> None:
    """Add textual inversions: in prompts the name of a file without suffix stands for its embedding.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is of another family, or the word is known already.
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f'no file of a textual inversion {path}')
        if getattr(pipeline, 'text_encoder_2', None) is None:
            pipeline.load_textual_inversion(str(path), token=path.stem, local_files_only=True)
            continue
        state = require('safetensors.torch').load_file(path)
        if not {'clip_l', 'clip_g'} <= state.keys():
            raise ValueError(f'{path} is no textual inversion of SDXL: it must hold clip_l and clip_g')
        for key, end in (('clip_l', ''), ('clip_g', '_2')):
            places = dict(
                tokenizer=getattr(pipeline, f'tokenizer{end}'), text_encoder=getattr(pipeline, f'text_encoder{end}')
            )
            pipeline.load_textual_inversion(state[key], token=path.stem, **places)
