"""Training of the tiny model: an autoencoder first, then text encoder and UNet together, both by mmengine's Runner.

The losses are those of latent diffusion (arXiv 2112.10752); not in the paper, which takes a trained model.
``B`` is the batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.dist import broadcast
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor

from ..extras import require
from .parts import SCHEDULER, build_text_encoder, build_tokenizer, unet_config, vae_config

# Of a diffusers folder: which class each part is.
INDEX = dict(
    _class_name='StableDiffusionPipeline',
    feature_extractor=[None, None],
    image_encoder=[None, None],
    requires_safety_checker=False,
    safety_checker=[None, None],
    scheduler=['diffusers', 'DDIMScheduler'],
    text_encoder=['transformers', 'CLIPTextModel'],
    tokenizer=['transformers', 'CLIPTokenizer'],
    unet=['diffusers', 'UNet2DConditionModel'],
    vae=['diffusers', 'AutoencoderKL'],
)


@MODELS.register_module()
class TintedDigitAutoencoder(BaseModel):
    """``AutoencoderKL`` trained to reconstruct pictures ``(B, 3, H, W)`` in [-1, 1].

    Args:
        vae: Arguments of :func:`~mmplugins.prompt_tuning_inversion.tinted_digits.parts.vae_config`.
        kl_weight: Weight of the divergence from the normal distribution, mean over latents. Ours.
        init_cfg: Of mmengine.
    """

    def __init__(self, vae: dict | None = None, kl_weight: float = 1e-4, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.vae = require('diffusers').AutoencoderKL(**vae_config(**(vae or {})))
        self.kl_weight = kl_weight

    def forward(self, inputs: Tensor, prompt: Sequence[str] | None = None, mode: str = 'tensor') -> Tensor | dict:
        """Losses (``mode='loss'``) or the reconstruction ``(B, 3, H, W)``."""
        posterior = self.vae.encode(inputs).latent_dist
        if mode != 'loss':
            return self.vae.decode(posterior.mode()).sample
        output = self.vae.decode(posterior.sample()).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        # The mean of both: squares alone blur thin strokes, absolute differences alone learn late.
        pixels = 0.5 * (F.mse_loss(output, inputs) + F.l1_loss(output, inputs))
        return dict(loss_pixels=pixels, loss_kl=self.kl_weight * kl)


@MODELS.register_module()
class TintedDigitDenoiser(BaseModel):
    """UNet and text encoder that predict the noise in latents of pictures ``(B, 3, H, W)`` from their prompts.

    Args:
        autoencoder: Config of a :class:`TintedDigitAutoencoder`; it is frozen, ``init_cfg`` names its checkpoint.
        unet: Arguments of :func:`~mmplugins.prompt_tuning_inversion.tinted_digits.parts.unet_config`.
        text_encoder: Arguments of :func:`~mmplugins.prompt_tuning_inversion.tinted_digits.parts.build_text_encoder`.
        tokenizer: Arguments of :func:`~mmplugins.prompt_tuning_inversion.tinted_digits.parts.build_tokenizer`.
        drop_prompt: Share of empty prompts, for classifier-free guidance (arXiv 2207.12598).
        init_cfg: Of mmengine.
    """

    def __init__(
        self,
        autoencoder: dict,
        unet: dict | None = None,
        text_encoder: dict | None = None,
        tokenizer: dict | None = None,
        drop_prompt: float = 0.1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        diffusers = require('diffusers')
        self.tokenizer = build_tokenizer(**(tokenizer or {}))
        self.text_encoder = build_text_encoder(self.tokenizer, **(text_encoder or {}))
        self.unet = diffusers.UNet2DConditionModel(**unet_config(**(unet or {})))
        self.autoencoder = MODELS.build(autoencoder).requires_grad_(False)
        self.drop_prompt = drop_prompt
        alphas = diffusers.DDIMScheduler(**SCHEDULER).alphas_cumprod
        self.register_buffer('alphas', alphas, persistent=False)
        # Set by the first batch to one over the standard deviation of its latents, as latent diffusion does.
        self.register_buffer('scaling_factor', torch.zeros(()))

    @torch.no_grad()
    def encode(self, inputs: Tensor) -> Tensor:
        """Latents ``(B, C, H/f, W/f)`` of unit variance."""
        latents = self.autoencoder.vae.encode(inputs).latent_dist.mode()
        if self.scaling_factor == 0:
            self.scaling_factor.fill_(1 / latents.std())
            broadcast(self.scaling_factor)  # of several processes each has a batch of its own
        return latents * self.scaling_factor

    def forward(self, inputs: Tensor, prompt: Sequence[str], mode: str = 'loss') -> dict[str, Tensor]:
        """Mean squared error of the predicted noise; the only mode, as sampling is for the editors."""
        latents = self.encode(inputs)
        dropped = torch.rand(len(inputs)) < self.drop_prompt
        prompt = ['' if drop else text for drop, text in zip(dropped.tolist(), prompt, strict=True)]
        tokens = self.tokenizer(prompt, padding='max_length', truncation=True, return_tensors='pt').input_ids
        embeds = self.text_encoder(tokens.to(latents.device)).last_hidden_state
        noise = torch.randn_like(latents)
        timesteps = torch.randint(len(self.alphas), (len(latents),), device=latents.device)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        return dict(loss=F.mse_loss(self.unet(noisy, timesteps, embeds).sample, noise))

    def save_folder(self, out: Path) -> None:
        """Write a diffusers folder of float16 weights; this model is in float16 then."""
        vae = self.autoencoder.vae
        vae.register_to_config(scaling_factor=self.scaling_factor.item())
        for name, part in (('text_encoder', self.text_encoder), ('unet', self.unet), ('vae', vae)):
            part.half().save_pretrained(out / name, safe_serialization=True)
            for path in (out / name).iterdir():
                path.chmod(0o644)  # safetensors makes files that only their owner can read
        self.tokenizer.save_pretrained(out / 'tokenizer')
        (out / 'scheduler').mkdir(exist_ok=True)
        for path, content in (
            ('scheduler/scheduler_config.json', dict(_class_name='DDIMScheduler', **SCHEDULER)),
            ('model_index.json', INDEX),
        ):
            (out / path).write_text(json.dumps(content, indent=2) + '\n')
