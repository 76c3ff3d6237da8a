"""The loop of stage 1, shared by prompt tuning inversion and null-text inversion.

Both tune the embedding of one branch of classifier-free guidance, step by step along the latents of DDIM inversion, and
keep the other branch: ``B`` images, ``T`` steps, ``L`` tokens of ``D`` numbers, latents ``(B, C, h, w)``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .attention_control import AttentionControl, AttentionMaps
from .editor import InversionEditor, Progress, SourcePrompts, guide, normal_tensors, prompts_for
from .inversion import Inversion

TOKENS = ('all', 'content')
# Gradients of a mean over a latent are close to the smallest float16; Adam does not see the factor, which is taken out.
LOSS_SCALE = {torch.float16: 1024.0}


class TuningEditor(InversionEditor):
    """An editor whose stage 1 tunes an embedding at each step.

    Args:
        inner_steps: Most updates a step, ``N``; 10 in the public code of null-text inversion.
        lr: Of Adam; 1e-2 as there.
        lr_decay: Lower the rate at step ``i`` from 0, see :meth:`decay`.
        early_stop: Of the threshold ``early_stop + 2 i early_stop`` on an image's loss at step ``i``, below which it is
            not updated further: 1e-5 as there; None for always ``inner_steps`` updates.
        tokens: ``'all'``, or ``'content'`` to tune only up to the first end-of-text token of the prompt. Ours.
        teacher_forcing: Start each step from the inverted latents and not from where the last step ended. Only to see
            what the difference is.
        attention: Arguments of :class:`AttentionControl`, for edits that keep the attention maps of the image; default:
            none is kept. For inversions under the prompt of the image. Not in the paper.
        **kwargs: Of :class:`InversionEditor`.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        *args,
        inner_steps: int = 10,
        lr: float = 1e-2,
        lr_decay: bool = True,
        early_stop: float | None = 1e-5,
        tokens: str = 'all',
        teacher_forcing: bool = False,
        attention: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(inner_steps, int) or inner_steps < 0:
            raise ValueError(f'inner_steps must be a whole number from 0 on, got {inner_steps!r}')
        if not 0 < lr < math.inf or not 0 <= (early_stop or 0) < math.inf:
            raise ValueError(f'lr must be a number above 0 and early_stop one not below, got {lr} and {early_stop}')
        if tokens not in TOKENS:
            raise ValueError(f'tokens must be one of {TOKENS}, got {tokens!r}')
        self.inner_steps, self.lr, self.lr_decay = inner_steps, lr, lr_decay
        self.early_stop, self.tokens, self.teacher_forcing = early_stop, tokens, teacher_forcing
        self.attention = None if attention is None else AttentionControl(**attention)

    def settings(self) -> dict:
        """Those of the base class and of the tuning."""
        names = ('inner_steps', 'lr', 'lr_decay', 'early_stop', 'tokens', 'teacher_forcing')
        return dict(super().settings(), **{name: getattr(self, name) for name in names})

    def decay(self, step: int) -> float:
        """Factor of the rate at a step: ``1 - i / 2T``. Ours; with 50 steps that of null-text inversion's code."""
        return 1 - step / (2 * self.num_steps)

    @abstractmethod
    def embeddings(
        self, prompts: Sequence[str], source_prompts: SourcePrompts, null: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, L, D)`` each: of DDIM inversion, of the branch that is kept, and the start of the tuned one."""

    @abstractmethod
    def combine(self, kept: Tensor, tuned: Tensor, guidance: float) -> Tensor:
        """Guidance of the two predictions, ``(B, C, h, w)`` each."""

    @abstractmethod
    def conditions(self, inversion: Inversion, prompts: Sequence[str], eta: float) -> tuple[Tensor, Tensor]:
        """Conditional and unconditional embeddings of stage 2, ``(T, B, L, D)`` or ``(1, B, L, D)`` each."""

    def edit_latents(
        self, inversion: Inversion, prompts: Sequence[str], eta: float, source_prompts: SourcePrompts = None
    ) -> Tensor:
        """Sample under the conditions of a strength; ``(B, C, h, w)``."""
        conditions = self.conditions(inversion, prompts, eta)
        if self.attention is None:
            return self.sample(inversion.noise, *conditions, self.edit_guidance)
        if None in (source_prompts or [None]):
            raise ValueError('attention control needs the prompts of the images (source_prompts)')
        maps = self.attention.maps(self.parts, source_prompts, prompts)
        return self.sample_beside(inversion.noise, self.conditions(inversion, prompts, 0.0), conditions, maps)

    def sample_beside(
        self, noise: Tensor, own: tuple[Tensor, Tensor], conditions: tuple[Tensor, Tensor], maps: AttentionMaps
    ) -> Tensor:
        """Sample the image under its ``own`` conditions, and beside it the edit with the image's attention maps.

        Only predictions under a prompt keep or take maps, as in the paper of prompt-to-prompt.
        """
        image = edit = noise
        (own_cond, own_null), (cond, null) = (
            [embeds.expand(self.num_steps, -1, -1, -1) for embeds in pair] for pair in (own, conditions)
        )
        for place, level in enumerate(range(self.num_steps, 0, -1)):
            with maps.keeping():
                own_noise = self.noise(image, level, own_cond[place])
            shares = self.attention.cross, self.attention.self_attention
            with maps.giving(*(place < round(share * self.num_steps) for share in shares)):
                edit_noise = self.noise(edit, level, cond[place])
            own_noise = guide(self.noise(image, level, own_null[place]), own_noise, self.guidance)
            edit_noise = guide(self.noise(edit, level, null[place]), edit_noise, self.edit_guidance)
            image = self.schedule.move(image, own_noise, level, level - 1)
            edit = self.schedule.move(edit, edit_noise, level, level - 1)
        return edit

    @normal_tensors
    def invert(
        self,
        images: Tensor,
        prompts: Sequence[str],
        source_prompts: SourcePrompts = None,
        progress: Progress | None = None,
    ) -> Inversion:
        """Stage 1, section "reconstruction" of figure 2.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1].
            prompts: Of the edit, one an image; a single string serves all.
            source_prompts: Of the images, where the editor needs them.
            progress: Called after each step.

        Returns:
            The inversion, on the device of the model. Images of a batch do not influence each other.

        Raises:
            ValueError: The number of prompts is not that of the images, or that of an image is needed and missing.
            FloatingPointError: A loss is not finite.
        """
        count = len(images)
        prompts, source_prompts = prompts_for(count, prompts, source_prompts)
        if self.needs_source_prompt and None in (source_prompts or [None]):
            raise ValueError(f'{type(self).__name__} needs a prompt that says what is in the image (source prompt)')
        with self.parts.frozen():
            null = self.parts.encode_text([''] * count)
            inverting, kept, tuned = self.embeddings(prompts, source_prompts, null)
            free = self.parts.content_mask(prompts) if self.tokens == 'content' else None
            trajectory = self.ddim_inversion(self.parts.encode_image(images), inverting, progress)
            return self._tune_all(trajectory, kept, tuned, free, progress)

    def _tune_all(
        self, trajectory: list[Tensor], kept: Tensor, tuned: Tensor, free: Tensor | None, progress: Progress | None
    ) -> Inversion:
        """All steps from the noise to the image."""
        device = self.parts.device
        latents = trajectory[-1].to(device).contiguous()  # as it will be stored
        updates = torch.zeros(len(latents), dtype=torch.long, device=device)
        embeds, losses = [], []
        for step, level in enumerate(range(self.num_steps, 0, -1)):
            target = trajectory[level - 1].to(device)
            with self.parts.fixed_latents():
                # Nothing in it changes while the other branch is tuned: once a step, and no graph through it.
                kept_noise = self.noise(latents, level, kept)
                tuned, before, done = self._tune(step, level, latents, target, kept_noise, tuned, free)
                noise = self.combine(kept_noise, self.noise(latents, level, tuned), self.guidance)
            latents = self.schedule.move(latents, noise, level, level - 1)
            after = image_errors(latents, target)
            embeds.append(tuned)
            losses.append(torch.stack([after if before is None else before, after]))
            updates += done
            if self.teacher_forcing and level > 1:
                latents = target
            if progress:
                progress('tune', step + 1, self.num_steps, after.mean().item())
        return Inversion(
            source=trajectory[0].to(device),
            noise=trajectory[-1].to(device),
            recon=latents,
            kept=kept,
            embeds=torch.stack(embeds),  # copies: the entries share nothing
            losses=torch.stack(losses),
            updates=updates,
            settings=self.settings(),
        )

    def _tune(
        self,
        step: int,
        level: int,
        latents: Tensor,
        target: Tensor,
        kept_noise: Tensor,
        embeds: Tensor,
        free: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The updates of one step: new embeddings ``(B, L, D)``, loss before them ``(B,)``, their number ``(B,)``.

        An image whose loss is below the threshold keeps its embedding, whatever the others of the batch do. The loss is
        looked at before an update, not after it, so no update is made that is not needed.
        """
        embeds = embeds.clone()
        active = torch.ones(len(latents), dtype=torch.bool, device=latents.device)
        done = torch.zeros_like(active, dtype=torch.long)
        first = None
        if not self.inner_steps:
            return embeds, first, done
        embeds.requires_grad_(True)
        # A new optimizer each step, as in the public code: moments of another timestep say little about this one.
        optimizer = torch.optim.Adam([embeds], lr=self.lr * (self.decay(step) if self.lr_decay else 1.0))
        threshold = None if self.early_stop is None else self.early_stop * (1 + 2 * step)
        scale = LOSS_SCALE.get(self.parts.compute_dtype)
        for _ in range(self.inner_steps):
            with torch.enable_grad():
                noise = self.combine(kept_noise, self.noise(latents, level, embeds), self.guidance)
                errors = image_errors(self.schedule.move(latents, noise, level, level - 1), target)
                total = errors.sum()  # a sum, so that images of a batch do not share a gradient
                total = total if scale is None else total * scale
            found = errors.detach()
            first = found if first is None else first
            if threshold is not None:
                active &= found >= threshold
            # In one tensor, as each that is asked waits for the device.
            finite, some, every = torch.stack([found.isfinite().all(), active.any(), active.all()]).tolist()
            if not finite:
                raise FloatingPointError(f'the loss at level {level} is not finite; take --dtype bf16 or fp32')
            if not some:
                break
            (embeds.grad,) = torch.autograd.grad(total, embeds)  # gradient for the embedding only
            if scale is not None:
                embeds.grad /= scale
            whole = free is None and every
            old = None if whole else embeds.detach().clone()
            optimizer.step()
            if not whole:
                changed = active.view(-1, 1, 1) if free is None else active.view(-1, 1, 1) & free
                with torch.no_grad():
                    embeds.copy_(torch.where(changed, embeds, old))
            done += active
        return embeds.detach(), first, done


def image_errors(latents: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each image of ``(B, C, h, w)``: ``(B,)``. The paper's figure 2 says MSE."""
    return (latents - target).square().flatten(1).mean(1)
