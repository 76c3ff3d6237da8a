"""Pipelines of diffusers with random weights, of the classes that Stable Diffusion and SDXL are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SIZES, NUMBERS = 6, 8  # SDXL is told six sizes and places, each in so many numbers, beside the pooled embedding


def random_pipeline(
    widths: Sequence[int] = (16,), prediction_type: str = 'epsilon', vae_levels: int = 2, **changes
) -> DiffusionPipeline:
    """Make a pipeline whose UNet has one level, with attention in the middle only.

    Args:
        widths: Of the embeddings of each text encoder; two make a pipeline of SDXL's kind.
        prediction_type: Of the scheduler.
        vae_levels: The downscaling is ``2 ** (vae_levels - 1)``.
        **changes: To the config of the UNet.
    """
    import diffusers
    from transformers import CLIPTextModelWithProjection

    from mmplugins.prompt_tuning_inversion.tinted_digits import parts

    torch.manual_seed(0)
    tokenizers = [parts.build_tokenizer() for _ in widths]
    encoders = [
        parts.build_text_encoder(tokenizer, width=width, heads=2)
        for tokenizer, width in zip(tokenizers, widths, strict=True)
    ]
    config = parts.unet_config((16,), cross_attention_dim=sum(widths))
    config.update(down_block_types=('DownBlock2D',), up_block_types=('UpBlock2D',))
    is_xl = len(widths) > 1
    if is_xl:
        encoders[1] = CLIPTextModelWithProjection(encoders[1].config)
        config.update(
            addition_embed_type='text_time',
            addition_time_embed_dim=NUMBERS,
            projection_class_embeddings_input_dim=widths[1] + SIZES * NUMBERS,
            use_linear_projection=True,
        )
    unet = diffusers.UNet2DConditionModel(**{**config, **changes})
    # At their start attention layers hardly add to what passes by; then the prompt would have no influence.
    for name, parameter in unet.named_parameters():
        if 'attn2' in name:
            parameter.data.mul_(4)
    vae = diffusers.AutoencoderKL(**parts.vae_config((8,) * vae_levels), scaling_factor=0.8)
    scheduler = diffusers.PNDMScheduler.from_config(
        dict(parts.SCHEDULER, prediction_type=prediction_type, skip_prk_steps=True)
    )
    if is_xl:
        return diffusers.StableDiffusionXLPipeline(vae, *encoders, *tokenizers, unet, scheduler)
    return diffusers.StableDiffusionPipeline(
        vae, *encoders, *tokenizers, unet, scheduler, None, None, requires_safety_checker=False
    )
