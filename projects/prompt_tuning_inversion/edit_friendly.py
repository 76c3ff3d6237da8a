"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al., CVPR 2024, arXiv 2304.06140): nothing is tuned.

Written from sections 3 and 4 of its paper; no code of others is in here. ``B`` images, ``T`` steps, latents
``(B, C, h, w)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor

from .baselines import SDEditEditor
from .editor import Progress, SourcePrompts, guide, normal_tensors, prompts_for
from .inversion import Inversion


@MODELS.register_module()
class EditFriendlyEditor(SDEditEditor):
    """Edits ``(B, 3, H, W)`` by sampling with the noise that leads back to the image, under another prompt.

    Each level gets noise of its own, so that neighbors are nearly independent; the noise of a random (DDPM) step is
    then what is missing from the model's mean to the next level. A strength of eta samples the last ``eta * T`` steps:
    0 gives the image, and its authors skip 36 of 100 steps, which is 0.64.

    Args:
        edit_guidance: 15 in the paper, against ``guidance`` 3.5 for the prompt of the image, which is empty where none
            is given. Default: as ``guidance``, as in the other editors.
        **kwargs: Of :class:`SDEditEditor`, which starts from a level too, but leaves the noise to the model.
    """

    def prompts_of_inversion(self, prompt: str, source_prompt: str | None) -> list[str]:
        """The prompt of the image."""
        return [source_prompt or '']

    @normal_tensors
    def invert(
        self,
        images: Tensor,
        prompts: Sequence[str],
        source_prompts: SourcePrompts = None,
        progress: Progress | None = None,
    ) -> Inversion:
        """Noise every level by itself, then find the noise of each step (equations 5 and 6)."""
        _, source_prompts = prompts_for(len(images), prompts, source_prompts)
        with self.parts.frozen():
            latents = self.parts.encode_image(images)
            null = self.parts.encode_text([''] * len(images))
            source = self.parts.encode_text([text or '' for text in source_prompts or [None] * len(images)])
            noises = torch.empty(self.num_steps, *latents.shape, device=latents.device)
            for place, level in enumerate(range(self.num_steps, 0, -1)):
                here = self.level(latents, level)
                mean, deviation = self.step(here, level, null, source, self.guidance)
                # The last step is without noise; what it misses is kept as it is, so that nothing is lost.
                noises[place] = (self.level(latents, level - 1) - mean) / (deviation or 1.0)
                if progress:
                    progress('invert', place + 1, self.num_steps, 0.0)
        return Inversion(
            source=latents,
            noise=self.level(latents, self.num_steps),
            recon=latents.clone(),
            kept=null,
            embeds=source.new_zeros(0, *source.shape),
            losses=latents.new_zeros(0, 2, len(latents)),
            updates=torch.zeros(len(latents), dtype=torch.long, device=latents.device),
            noises=noises,
            settings=self.settings(),
        )

    def level(self, latents: Tensor, level: int) -> Tensor:
        """Latents of the image ``(B, C, h, w)`` with the noise of a level, which is that level's own (equation 5)."""
        if not level:
            return latents
        # Drawn on the CPU, so that all devices draw the same; one stream a level, whatever was drawn before.
        generator = torch.Generator().manual_seed(self.seed * (self.num_steps + 1) + level)
        noise = torch.randn(latents.shape[1:], generator=generator).to(latents)
        return self.schedule.add_noise(latents, noise, level)

    def step(self, latents: Tensor, level: int, null: Tensor, cond: Tensor, guidance: float) -> tuple[Tensor, float]:
        """Mean ``(B, C, h, w)`` and standard deviation of the random step from a level to the next lower one."""
        branches = [
            self.noise(latents, level, embeds) if needed else None
            for embeds, needed in ((null, guidance != 1), (cond, guidance != 0))
        ]
        return self.schedule.random_step(latents, guide(*branches, guidance), level)

    def edit_latents(
        self, inversion: Inversion, prompts: Sequence[str], eta: float, source_prompts: SourcePrompts = None
    ) -> Tensor:
        """Sample from level ``round(eta * T)`` with the noise of each step; ``(B, C, h, w)``."""
        start = round(eta * self.num_steps)
        cond, latents = self.parts.encode_text(prompts), self.level(inversion.source, start)
        for level in range(start, 0, -1):
            mean, deviation = self.step(latents, level, inversion.kept, cond, self.edit_guidance)
            latents = mean + (deviation or 1.0) * inversion.noises[self.num_steps - level]
        return latents
