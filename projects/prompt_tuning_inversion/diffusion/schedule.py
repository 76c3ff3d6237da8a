"""The grid of timesteps and the deterministic DDIM transition in both directions (arXiv 2010.02502, eq. 12).

Levels: 0 is the image, ``T`` the noisiest latent. The step between levels ``n`` and ``n - 1`` belongs to timestep
``timesteps[n - 1]`` in both directions: inverting evaluates the noise at the cleaner latent with the noisier timestep.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from ..extras import require

PREDICTIONS = ('epsilon', 'v_prediction')


class DDIMSchedule:
    """``T`` steps on the noise schedule of a checkpoint.

    Spacing, offset and the last alpha are those of diffusers' ``DDIMScheduler`` for the same config; clipping is off,
    because a clipped step cannot be inverted.

    Args:
        config: Scheduler config of the checkpoint, of any diffusers scheduler on an alpha schedule (DDIM, DDPM, PNDM,
            Euler, DPM-Solver, ...); only its noise schedule and grid are taken.
        num_steps: ``T``.

    Attributes:
        timesteps: ``(T,)``, int64, rising; entry ``n - 1`` belongs to the step between levels ``n`` and ``n - 1``.
        alphas: ``(T + 1,)``, float64, cumulative alpha of each level.

    Raises:
        ValueError: ``num_steps`` is outside 1 to the number of training timesteps, the model predicts something else
            than noise or v, the noisiest level has no signal left (zero terminal SNR), or the scheduler has no alphas
            (flow matching, EDM) or gives the UNet something else than a timestep.
    """

    def __init__(self, config: Mapping, num_steps: int) -> None:
        if 'beta_schedule' not in config or config.get('timestep_type') == 'continuous':
            name = config.get('_class_name', 'the scheduler')
            raise ValueError(f'{name} is not on an alpha schedule with whole timesteps, so DDIM cannot invert it')
        scheduler_type = require('diffusers').DDIMScheduler
        scheduler = scheduler_type.from_config(dict(config), clip_sample=False, thresholding=False)
        total = scheduler.config.num_train_timesteps
        if not isinstance(num_steps, int) or not 1 <= num_steps <= total:
            raise ValueError(f'the number of steps must be an integer from 1 to {total}, got {num_steps!r}')
        self.prediction_type = scheduler.config.prediction_type
        if self.prediction_type not in PREDICTIONS:
            raise ValueError(f'prediction_type must be one of {PREDICTIONS}, the folder says {self.prediction_type!r}')
        if total % num_steps:
            warnings.warn(
                f'{num_steps} steps do not divide {total}: the grid ends below the noisiest timestep', stacklevel=2
            )
        scheduler.set_timesteps(num_steps)
        self.timesteps: Tensor = scheduler.timesteps.flip(0)
        if self.timesteps.max() >= total or self.timesteps.min() < 0:
            raise ValueError(
                f'{num_steps} steps with steps_offset {scheduler.config.steps_offset} leave the {total} training '
                'timesteps: take fewer steps'
            )
        grid = scheduler.alphas_cumprod[self.timesteps]
        self.alphas: Tensor = torch.cat([scheduler.final_alpha_cumprod.view(1), grid]).double()
        if self.alphas.min() < 1e-6:
            raise ValueError('the noisiest level has no signal (zero terminal SNR), so DDIM cannot be inverted from it')
        self.num_steps = num_steps

    def to_noise(self, output: Tensor, latents: Tensor, level: int) -> Tensor:
        """The noise that a model's output means, for latents at ``level``, both ``(B, C, H, W)``.

        Linear in the output, so guidance may be applied before or after it.
        """
        if self.prediction_type == 'epsilon':
            return output
        alpha = self.alphas[level].item()
        return alpha**0.5 * output + (1 - alpha) ** 0.5 * latents

    def move(self, latents: Tensor, noise: Tensor, start: int, end: int) -> Tensor:
        """Latents ``(B, C, H, W)`` at level ``start`` to level ``end``, with the noise in them given."""
        a, b = self.alphas[start].item(), self.alphas[end].item()
        # Equation 12 without its random term, sorted by latents and noise.
        return (b / a) ** 0.5 * latents + ((1 - b) ** 0.5 - (b * (1 - a) / a) ** 0.5) * noise

    def random_step(self, latents: Tensor, noise: Tensor, level: int) -> tuple[Tensor, float]:
        """Mean ``(B, C, H, W)`` and standard deviation of DDPM's step from ``level`` to the next lower one.

        Equation 12 with eta 1; the step to level 0 keeps the little noise that the schedule's last alpha says.
        """
        a, b = self.alphas[level].item(), self.alphas[level - 1].item()
        variance = (1 - b) / (1 - a) * (1 - a / b)
        image = (latents - (1 - a) ** 0.5 * noise) / a**0.5
        return b**0.5 * image + max(0.0, 1 - b - variance) ** 0.5 * noise, variance**0.5

    def add_noise(self, latents: Tensor, noise: Tensor, level: int) -> Tensor:
        """The forward process: latents ``(B, C, H, W)`` of the image, with noise of ``level``."""
        alpha = self.alphas[level].item()
        return alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
