"""What prompt tuning inversion is compared with, behind the same interface. ``B`` images, ``T`` steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor

from .editor import InversionEditor, Progress, SourcePrompts, guide, normal_tensors, prompts_for, warn_guidance
from .inversion import Inversion
from .prompt_tuning import PromptTuningInversion
from .tuning import TuningEditor


@MODELS.register_module()
class DDIMInversionEditor(PromptTuningInversion):
    """DDIM inversion and guided sampling of ``(B, 3, H, W)``: prompt tuning inversion without any update.

    With strength 1 it samples the prompt from the inverted noise; below, it mixes the prompt with ``init``.

    Args:
        **kwargs: Of :class:`PromptTuningInversion`, without those of the updates.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, inner_steps=0, **kwargs)


@MODELS.register_module()
class NullTextInversionEditor(TuningEditor):
    """Null-text inversion (arXiv 2211.09794) of ``(B, 3, H, W)``: the unconditional embedding is tuned.

    Inverts under the prompt of the image, which it needs. Its authors edit by replacing attention maps, which is
    ``attention`` with eta 1; by default the prompt is mixed with that of the image, eta of the former, so that
    inversions are compared and not ways of editing.
    Differs from the public code in two points: the loss is looked at before an update and not after it, and beyond 50
    steps the rate falls more slowly, as it would become negative beyond 100.
    """

    needs_source_prompt = True

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.guidance == 1:
            raise ValueError('guidance 1 leaves the empty prompt without influence: there is nothing to tune')
        warn_guidance(self.guidance)

    def decay(self, step: int) -> float:
        """Factor of the rate at a step: ``1 - i / 100``, as in the public code, for any number of steps up to 50."""
        return 1 - step / max(100, 2 * self.num_steps)

    def embeddings(
        self, prompts: Sequence[str], source_prompts: SourcePrompts, null: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The prompt of the image for inversion and the kept branch, the empty one for the tuned; ``(B, L, D)``."""
        source = self.parts.encode_text(source_prompts)
        return source, source, null

    def prompts_of_inversion(self, prompt: str, source_prompt: str | None) -> list[str]:
        """The prompt of the image, and that of the edit if it says which tokens are tuned."""
        return [source_prompt, *([prompt] if self.tokens == 'content' else [])]

    def combine(self, kept: Tensor, tuned: Tensor, guidance: float) -> Tensor:
        """The tuned branch is the unconditional one."""
        return guide(tuned, kept, guidance)

    def conditions(self, inversion: Inversion, prompts: Sequence[str], eta: float) -> tuple[Tensor, Tensor]:
        """A mix of both prompts, and the tuned empty prompts."""
        cond = torch.lerp(inversion.kept, self.parts.encode_text(prompts), eta).unsqueeze(0)
        return cond, inversion.embeds


@MODELS.register_module()
class NegativePromptEditor(NullTextInversionEditor):
    """Negative-prompt inversion (arXiv 2305.16807) of ``(B, 3, H, W)``: null-text inversion without any update.

    The prompt of the image stands in the place of the empty one, so both branches are equal until the prompt is edited.

    Args:
        **kwargs: Of :class:`NullTextInversionEditor`, without those of the updates.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, inner_steps=0, **kwargs)

    def embeddings(
        self, prompts: Sequence[str], source_prompts: SourcePrompts, null: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The prompt of the image everywhere; ``(B, L, D)`` each."""
        source = self.parts.encode_text(source_prompts)
        return source, source, source


@MODELS.register_module()
class SDEditEditor(InversionEditor):
    """SDEdit (arXiv 2108.01073) of ``(B, 3, H, W)``: add noise up to a level, then sample the prompt from there.

    The strength is the share of the steps that are sampled: 0 gives the image, 1 a sample of the prompt.

    Args:
        seed: Of the noise, the same for every image.
        **kwargs: Of :class:`InversionEditor`.
    """

    def __init__(self, *args, seed: int = 0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.seed = seed

    def settings(self) -> dict:
        """Those of the base class and the seed."""
        return dict(super().settings(), seed=self.seed)

    @normal_tensors
    def invert(
        self,
        images: Tensor,
        prompts: Sequence[str],
        source_prompts: SourcePrompts = None,
        progress: Progress | None = None,
    ) -> Inversion:
        """Encode the images and draw the noise."""
        prompts_for(len(images), prompts, source_prompts)
        latents = self.parts.encode_image(images)
        # Drawn on the CPU, so that all devices draw the same.
        noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(self.seed)).to(latents)
        noise = noise.expand_as(latents).clone()
        null = self.parts.encode_text([''] * len(images))
        if progress:
            progress('invert', 1, 1, 0.0)
        return Inversion(
            source=latents,
            noise=noise,
            recon=latents.clone(),
            kept=null,
            embeds=null.new_zeros(0, *null.shape),
            losses=latents.new_zeros(0, 2, len(latents)),
            updates=torch.zeros(len(latents), dtype=torch.long, device=latents.device),
            settings=self.settings(),
        )

    def edit_latents(
        self, inversion: Inversion, prompts: Sequence[str], eta: float, source_prompts: SourcePrompts = None
    ) -> Tensor:
        """Sample from level ``round(eta * T)``; ``(B, C, h, w)``."""
        start = round(eta * self.num_steps)
        if not start:
            return inversion.source
        cond, null = self.parts.encode_text(prompts).unsqueeze(0), inversion.kept.unsqueeze(0)
        latents = self.schedule.add_noise(inversion.source, inversion.noise, start)
        return self.sample(latents, cond, null, self.edit_guidance, start)
