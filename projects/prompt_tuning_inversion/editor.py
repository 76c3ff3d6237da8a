"""What all editors share: guidance, DDIM inversion, sampling, and the face to mmengine's Runner.

``B`` images, ``T`` steps, ``L`` tokens of ``D`` numbers, latents ``(B, C, h, w)``.
"""

from __future__ import annotations

import functools
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor

from .cache import InversionCache
from .diffusion.parts import DiffusionParts
from .diffusion.schedule import DDIMSchedule
from .inversion import Inversion
from .pairs.sample import EditDataSample, prompts_of

Progress = Callable[[str, int, int, float], None]
"""Called as ``progress(stage, done, total, loss)``; stages are ``invert``, ``tune`` and ``edit``."""

SourcePrompts = Sequence[str | None] | None
"""What is in the images; None for one, or for all, where that is not known."""


def normal_tensors(function: Callable) -> Callable:
    """Let a method work inside ``torch.inference_mode`` too, whose tensors cannot take part in autograd."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with torch.inference_mode(False), torch.no_grad():
            args = [arg.clone() if isinstance(arg, Tensor) and arg.is_inference() else arg for arg in args]
            return function(*args, **kwargs)

    return wrapped


class InversionEditor(BaseModel):
    """Edits real images: :meth:`invert` finds latents that the model turns into the image, :meth:`edit` changes them.

    Args:
        parts: Config of :class:`DiffusionParts`, or one that is built.
        num_steps: ``T``; 50 is what the public code of all methods takes.
        guidance: Weight of classifier-free guidance in stage 1, 0 for no prompt, 1 for the prompt alone. 7.5 is Stable
            Diffusion's; not in what we could read of the paper.
        edit_guidance: The same while editing; default: as while inverting.
        eta: Strengths of the edits that ``forward`` makes.
        cache: Arguments of :class:`InversionCache`, where ``forward`` keeps inversions, so that a run that was killed
            and starts again tunes only what is left; default: none is kept.

    Raises:
        ValueError: A setting is out of its range.
    """

    needs_source_prompt = False

    def __init__(
        self,
        parts: dict | DiffusionParts,
        num_steps: int = 50,
        guidance: float = 7.5,
        edit_guidance: float | None = None,
        eta: float | Sequence[float] = 0.7,
        cache: dict | None = None,
    ) -> None:
        super().__init__()
        self.parts: DiffusionParts = MODELS.build(parts) if isinstance(parts, dict) else parts
        self.num_steps, self.guidance = num_steps, float(guidance)
        self.edit_guidance = self.guidance if edit_guidance is None else float(edit_guidance)
        if not (0 <= self.guidance < math.inf and 0 <= self.edit_guidance < math.inf):
            raise ValueError(f'guidance must be a number and not negative, got {guidance} and {edit_guidance}')
        self.etas = tuple(float(value) for value in ([eta] if isinstance(eta, (int, float)) else eta))
        if not self.etas:
            raise ValueError('at least one eta is needed')
        for value in self.etas:
            check_eta(value)
        if len({f'{value:g}' for value in self.etas}) < len(self.etas):  # as keys of metrics name them
            raise ValueError(f'eta holds a strength twice: {self.etas}')
        self.cache = None if cache is None else InversionCache(**cache)
        if not self.parts.missing:
            self.schedule = DDIMSchedule(self.parts.scheduler_config, num_steps)

    def settings(self) -> dict:
        """All that the result of :meth:`invert` depends on besides images and prompts; JSON."""
        return dict(
            method=type(self).__name__,
            model=self.parts.identity,
            dtype=self.parts.dtype_name,
            clip_skip=self.parts.clip_skip,
            num_steps=self.num_steps,
            guidance=self.guidance,
        )

    def prompts_of_inversion(self, prompt: str, source_prompt: str | None) -> list[str]:
        """Which of an image's two prompts stage 1 depends on; a cache tells inversions apart by them."""
        return []

    @abstractmethod
    def invert(
        self,
        images: Tensor,
        prompts: Sequence[str],
        source_prompts: SourcePrompts = None,
        progress: Progress | None = None,
    ) -> Inversion:
        """Stage 1: images ``(B, 3, H, W)`` in [-1, 1], the prompts of the edit and, where needed, of the images.

        Raises:
            ValueError: A prompt that is needed is missing, or the number of prompts is not that of the images.
        """

    @abstractmethod
    def edit_latents(
        self, inversion: Inversion, prompts: Sequence[str], eta: float, source_prompts: SourcePrompts = None
    ) -> Tensor:
        """Stage 2: edited latents ``(B, C, h, w)``; ``eta`` from 0 (reconstruction) to 1 (the prompt alone)."""

    @normal_tensors
    def edit(
        self,
        inversion: Inversion,
        prompts: Sequence[str],
        eta: float | None = None,
        source_prompts: SourcePrompts = None,
    ) -> Tensor:
        """Edited images ``(B, 3, H, W)`` in [-1, 1].

        Args:
            inversion: Of :meth:`invert` of an editor with the same settings.
            prompts: One an image; a single string serves all.
            eta: Strength, 0 to 1; default: the first of the editor's.
            source_prompts: Of the images, likewise; attention control needs them.

        Raises:
            ValueError: ``eta`` is out of range, the number of prompts is not that of the images, or the inversion is of
                another editor.
        """
        eta = self.etas[0] if eta is None else float(eta)
        check_eta(eta)
        prompts, source_prompts = prompts_for(len(inversion), prompts, source_prompts)
        if inversion.settings != self.settings():
            changed = [key for key, value in self.settings().items() if inversion.settings.get(key) != value]
            raise ValueError(f'the inversion was made with other settings ({", ".join(changed)}): invert again')
        with self.parts.frozen():
            return self.parts.decode(self.edit_latents(inversion.to(self.parts.device), prompts, eta, source_prompts))

    @normal_tensors
    def reconstruct(self, inversion: Inversion) -> Tensor:
        """The images as stage 1 reconstructs them, ``(B, 3, H, W)`` in [-1, 1]."""
        return self.parts.decode(inversion.recon)

    def noise(self, latents: Tensor, level: int, embeds: Tensor, timestep_level: int | None = None) -> Tensor:
        """Predicted noise for latents ``(B, C, h, w)`` at a level, under embeddings ``(B, L, D)``.

        Inverting evaluates the timestep of the next noisier level: ``timestep_level``.
        """
        timestep = self.schedule.timesteps[(timestep_level or level) - 1].to(latents.device)
        return self.schedule.to_noise(self.parts.predict(latents, timestep, embeds), latents, level)

    def ddim_inversion(self, latents: Tensor, embeds: Tensor, progress: Progress | None = None) -> list[Tensor]:
        """All ``T + 1`` latents from the image to the noise, without guidance, under ``embeds`` ``(B, L, D)``."""
        trajectory = [latents]
        for level in range(1, self.num_steps + 1):
            noise = self.noise(trajectory[-1].to(self.parts.device), level - 1, embeds, timestep_level=level)
            latents = self.schedule.move(latents, noise, level - 1, level)
            trajectory.append(latents.cpu() if self.parts.low_mem else latents)
            if progress:
                progress('invert', level, self.num_steps, 0.0)
        return trajectory

    def sample(
        self,
        latents: Tensor,
        cond: Tensor,
        null: Tensor,
        guidance: float,
        start: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Guided DDIM sampling to the image.

        Args:
            latents: ``(B, C, h, w)`` at level ``start``.
            cond: Conditional embeddings of each step, the noisiest first, ``(start, B, L, D)``.
            null: Unconditional ones, alike, or ``(1, B, L, D)`` for all steps.
            guidance: 0 and 1 evaluate one branch only.
            start: Level; default ``T``.
            progress: Called after each step.

        Returns:
            Latents of the image, ``(B, C, h, w)``.
        """
        start = self.num_steps if start is None else start
        cond, null = cond.expand(start, -1, -1, -1), null.expand(start, -1, -1, -1)
        for place, level in enumerate(range(start, 0, -1)):
            # One branch after the other, with the shapes of stage 1: a strength of 0 then repeats it bit by bit.
            branches = [
                self.noise(latents, level, embeds[place]) if needed else None
                for embeds, needed in ((null, guidance != 1), (cond, guidance != 0))
            ]
            latents = self.schedule.move(latents, guide(*branches, guidance), level, level - 1)
            if progress:
                progress('edit', place + 1, start, 0.0)
        return latents

    def forward(
        self, inputs: Sequence[Tensor], data_samples: Sequence[EditDataSample], mode: str = 'predict'
    ) -> list[EditDataSample]:
        """Invert and edit images, for mmengine's loops; images of one size are done together.

        Args:
            inputs: Images ``(3, H, W)`` in [-1, 1].
            data_samples: With ``prompt`` and, where the editor needs it, ``source_prompt``.
            mode: ``'predict'``; nothing is trained.

        Returns:
            The data samples with ``source``, ``vae`` (what decoding the latents gives) and ``recon``, ``(3, H, W)``,
            and ``edits`` ``(E, 3, H, W)`` for the strengths in ``etas``.
        """
        if mode != 'predict':
            raise ValueError(f"an editor is not trained: mode must be 'predict', got {mode!r}")
        groups: dict[tuple, list[int]] = {}
        for number, image in enumerate(inputs):
            groups.setdefault(tuple(image.shape), []).append(number)
        for numbers in groups.values():
            images = torch.stack([inputs[number] for number in numbers]).to(self.parts.device)
            samples = [data_samples[number] for number in numbers]
            prompts = prompts_of(samples)
            if self.cache is None:
                inversion = self.invert(images, *prompts)
            else:
                inversion, _ = self.cache.invert(self, images, *prompts)
            self.edit_samples(samples, images, inversion, self.etas)
        return list(data_samples)

    def edit_samples(
        self, samples: Sequence[EditDataSample], images: Tensor, inversion: Inversion, etas: Sequence[float]
    ) -> None:
        """Edit inverted images and put the pictures into their data samples, see :class:`EditDataSample`.

        Args:
            samples: One an image.
            images: ``(B, 3, H, W)`` in [-1, 1], on the device of the model.
            inversion: Of the images.
            etas: Strengths; none for the reconstruction alone.
        """
        pictures = dict(source=images, vae=self.parts.decode(inversion.source), recon=self.reconstruct(inversion))
        edits = torch.empty(len(etas), *images.shape)
        for place, eta in enumerate(etas):
            prompts, source_prompts = prompts_of(samples)
            edits[place] = self.edit(inversion, prompts, eta, source_prompts)
        for place, sample in enumerate(samples):
            for name, picture in pictures.items():
                sample.set_field(picture[place].cpu(), name)
            if sample.get('mask') is not None:
                sample.mask = sample.mask.cpu()  # every metric asks it and multiplies by it
            sample.set_data(dict(edits=edits[:, place], etas=etas))


def prompts_for(
    count: int, prompts: Sequence[str], source_prompts: SourcePrompts = None
) -> tuple[list[str], list[str | None] | None]:
    """Prompts of the edits and of the images, one for each of ``count`` images; a single string serves all.

    Raises:
        ValueError: The number of prompts is not that of the images.
    """
    found = []
    for name, given in (('prompts', prompts), ('source prompts', source_prompts)):
        given = [given] * count if isinstance(given, str) else given if given is None else list(given)
        if given is not None and len(given) != count:
            raise ValueError(f'{len(given)} {name} for {count} images')
        found.append(given)
    return tuple(found)


def guide(uncond: Tensor | None, cond: Tensor | None, guidance: float) -> Tensor:
    """Classifier-free guidance of two predictions ``(B, C, h, w)`` (arXiv 2207.12598); None where it has no weight."""
    if uncond is None or cond is None:
        return cond if uncond is None else uncond
    return uncond + guidance * (cond - uncond)


def check_eta(eta: float) -> None:
    """Refuse a strength outside 0 to 1."""
    if not 0 <= eta <= 1:
        raise ValueError(f'eta must be from 0 (reconstruction) to 1 (the prompt alone), got {eta}')


def warn_guidance(guidance: float) -> None:
    """Say what a guidance of at most 1 means."""
    if guidance <= 1:
        warnings.warn(
            f'guidance {guidance} does not guide: 1 is the prompt alone, less weakens it; 7.5 is usual',
            stacklevel=3,
        )
