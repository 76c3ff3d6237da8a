"""What stage 1 leaves: all that stage 2 needs to edit an image with any prompt and strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inversion:
    """The result of inverting ``B`` images with ``T`` steps.

    Attributes:
        source: Latents of the images, ``(B, C, h, w)``.
        noise: Latents at the noisiest level, where editing starts, ``(B, C, h, w)``.
        recon: Where stage 1 itself ended, ``(B, C, h, w)``.
        kept: Embedding of the branch of guidance that was not tuned, ``(B, L, D)``.
        embeds: Embeddings of the other branch, one a step, the noisiest first, ``(T, B, L, D)``.
        losses: Mean squared error of each step before and after its updates, ``(T, 2, B)``.
        updates: Updates of each image, ``(B,)``, int64; 0 where nothing was tuned.
        noises: Of methods with random steps, the noise of each, the noisiest first, ``(T, B, C, h, w)``; else empty,
            ``(0, B, C, h, w)``, the default.
        settings: Of the editor that made it; editing with another editor is an error.
    """

    source: Tensor
    noise: Tensor
    recon: Tensor
    kept: Tensor
    embeds: Tensor
    losses: Tensor
    updates: Tensor
    noises: Tensor | None = None
    settings: dict = field(default_factory=dict)

    # The dimension of the images in each tensor.
    BATCH_DIMS = dict(source=0, noise=0, recon=0, kept=0, embeds=1, losses=2, updates=0, noises=1)

    def __post_init__(self) -> None:
        if self.noises is None:
            object.__setattr__(self, 'noises', self.source.new_zeros(0, *self.source.shape))
        # One memory layout, so that an edit of an inversion that was stored and read is the same to the last bit.
        for name, value in self.tensors().items():
            object.__setattr__(self, name, value.contiguous())

    def __len__(self) -> int:
        return len(self.source)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name: getattr(self, name) for name in self.BATCH_DIMS}

    def to(self, device: torch.device | str) -> Inversion:
        """The same on another device."""
        return replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    def split(self) -> list[Inversion]:
        """One inversion an image."""
        parts = {name: self.tensors()[name].split(1, dim) for name, dim in self.BATCH_DIMS.items()}
        return [replace(self, **{name: parts[name][n] for name in parts}) for n in range(len(self))]

    @staticmethod
    def join(inversions: Sequence[Inversion]) -> Inversion:
        """One inversion of several, in order.

        Raises:
            ValueError: They were made with different settings.
        """
        first = inversions[0]
        if any(other.settings != first.settings for other in inversions):
            raise ValueError('inversions of different settings cannot be joined')
        return replace(
            first,
            **{
                name: torch.cat([getattr(one, name) for one in inversions], dim)
                for name, dim in Inversion.BATCH_DIMS.items()
            },
        )
