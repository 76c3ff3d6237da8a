"""Pictures of what CAE makes of masked images, drawn while it trains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor, nn
from torch.nn import functional as F

from mmplugins.utils.atomic import replacing
from mmplugins.utils.wrappers import model_of

from .tokens import split_places

GRAY = 0.5


@HOOKS.register_module()
class ReconstructionHook(Hook):
    """Write a picture of a few training images every ``interval`` epochs.

    A row an image. Columns of CAE with tokens of a codebook or with pixels as target: image, visible patches,
    prediction in the masked places, and what a perfect prediction would look like. Of CAE v2: image, visible patches,
    predicted features, target features, as the first three principal components of the target (tokens that are not
    supervised are gray). Of CAE with another target, such as DALL-E's: the same of the latents of the masked patches.

    The images, crops and masks are drawn once, so that pictures of a run can be compared.

    Args:
        interval: Epochs between pictures; the last epoch is drawn too.
        num_images: Rows.
        seed: Of crops and masks.
        out_dir: Folder. Default: ``pictures`` in the folder of the run's logs.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 5, num_images: int = 6, seed: int = 0, out_dir: str | None = None) -> None:
        if interval < 1 or num_images < 1:
            raise ValueError(f'interval={interval} and num_images={num_images} must be at least 1')
        self.interval, self.num_images, self.seed, self.out_dir = interval, num_images, seed, out_dir
        self.batch: dict | None = None

    @master_only
    def after_train_epoch(self, runner: Runner) -> None:
        """Draw, if it is time."""
        epoch = runner.epoch + 1
        if epoch % self.interval and epoch != runner.max_epochs:
            return
        model = model_of(runner)
        if self.batch is None:
            self.batch = self.read_images(runner)
        path = Path(self.out_dir or Path(runner.log_dir, 'pictures')) / f'epoch_{epoch}.png'
        with replacing(path) as temporary:
            mmcv.imwrite(self.draw(model, self.batch)[..., ::-1], str(temporary))

    def read_images(self, runner: Runner) -> dict:
        """Read images from all over the training set, with the run's own pipeline."""
        loader = runner.train_dataloader
        places = np.linspace(0, len(loader.dataset) - 1, min(self.num_images, len(loader.dataset))).round().astype(int)
        with fixed_chance(self.seed):
            return loader.collate_fn([loader.dataset[int(place)] for place in places])

    @torch.no_grad()
    def draw(self, model: nn.Module, batch: dict) -> np.ndarray:
        """Draw a batch.

        Args:
            model: :class:`CAEv1` or :class:`CAEv2`.
            batch: As the data loader gives it.

        Returns:
            Array (height, width, 3), RGB, uint8.
        """
        was_training = model.training
        model.eval()
        try:
            with fixed_chance(self.seed):  # the run must not depend on being looked at
                data = model.data_preprocessor(batch, training=False)
                images, target_images, mask = model.read_batch(data['inputs'], data['data_samples'])
                columns = self.columns(model, images, target_images, mask)
        finally:
            model.train(was_training)
        size = images.shape[-2:]
        columns = [F.interpolate(as_rgb(column.float().cpu()), size=size, mode='nearest') for column in columns]
        rows = torch.cat([F.pad(column, (0, 4, 0, 4), value=1.0) for column in columns], dim=3)
        picture = rows.permute(0, 2, 3, 1).flatten(0, 1)[:-4, :-4].clamp(0, 1)
        return (255 * picture).round().to(torch.uint8).numpy()

    def columns(self, model: nn.Module, images: Tensor, target_images: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the columns, each (B, C, H, W) or (B, C, h, w), RGB in [0, 1]."""
        preprocessor, grid, target = model.data_preprocessor, model.backbone.patch_resolution, model.target_generator
        image = ((images * preprocessor.std.to(images) + preprocessor.mean.to(images)) / 255).clamp(0, 1)
        hidden = F.interpolate(mask.view(-1, 1, *grid).to(image), size=image.shape[-2:], mode='nearest').bool()
        columns = [image, torch.where(hidden, torch.full_like(image, GRAY), image)]
        if hasattr(model, 'predict_groups'):
            return columns + pca_columns(*grouped(model, images, target_images, mask), grid)
        latents, pred = model.reconstruct(images, mask)
        if hasattr(target, 'patches'):  # tokens of a codebook
            found, best = target.patches(pred.argmax(-1)), target.patches(target(target_images))
            found = fill(found.flatten(2), mask).unflatten(-1, found.shape[2:])
        elif hasattr(target, 'denormalize'):  # pixels, in the statistics of the patches that are to be found
            values = fill(pred, mask), target(target_images)
            size = (-1, target.patch_size, target.patch_size)
            found, best = (target.denormalize(value, target_images).unflatten(-1, size) for value in values)
        else:
            return columns + pca_columns(fill(latents, mask), fill(model.align_target(images, mask), mask), grid)
        found, best = lay_out(found, grid), lay_out(best, grid)
        shown = F.interpolate(columns[1], size=found.shape[-2:], mode='bilinear', antialias=True)
        hidden = F.interpolate(hidden.to(found), size=found.shape[-2:], mode='nearest').bool()
        return [*columns, torch.where(hidden, found, shown), torch.where(hidden, best, shown)]


def as_rgb(images: Tensor) -> Tensor:
    """Return ``(B, 3, H, W)`` of images ``(B, C, H, W)``: gray as gray, of more channels the first three."""
    return images[:, :3] if images.size(1) >= 3 else images[:, :1].expand(-1, 3, -1, -1)


def fill(masked: Tensor, mask: Tensor) -> Tensor:
    """Put the tokens (B, M, C) of masked places into (B, N, C); NaN elsewhere."""
    full = masked.new_full((*mask.shape, masked.shape[-1]), float('nan'))
    full[mask] = masked.flatten(0, 1)
    return full


def lay_out(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Join patches (B, N, 3, p, p) of a grid (h, w) to images (B, 3, h p, w p)."""
    batch, _, channels, height, width = patches.shape
    rows = patches.view(batch, *grid, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(batch, channels, grid[0] * height, grid[1] * width)


def grouped(model: nn.Module, images: Tensor, target_images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted and target tokens of CAE v2, (B, N, C) each, unit length; NaN where a token is not supervised."""
    pairs = zip(
        model.predict_groups(images, mask),
        model.head.groups(model.make_target(target_images), split_places(mask)),
        strict=True,
    )
    pairs = [(F.normalize(one, dim=-1), F.normalize(other, dim=-1)) for one, other in pairs][int(model.head.on_cls) :]
    found = [pairs[0][0].new_full((*mask.shape, pairs[0][0].shape[-1]), float('nan')) for _ in range(2)]
    masks = [~mask] * model.head.on_visible + [mask] * model.head.on_masked
    for pair, where in zip(pairs, masks, strict=True):
        for full, part in zip(found, pair, strict=True):
            full[where] = part.flatten(0, 1).to(full)
    return found[0], found[1]


def pca_columns(found: Tensor, target: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """Color tokens (B, N, C) by the first three principal components of the target; NaN becomes gray.

    Returns:
        Two tensors (B, 3, h, w) in [0, 1]: found, target.
    """
    known = target[~target.isnan().any(-1)].float()
    mean = known.mean(0)
    axes = torch.linalg.svd(known - mean, full_matrices=False)[2][:3]
    low, high = ((known - mean) @ axes.T).quantile(torch.tensor([0.02, 0.98]).to(known), dim=0)
    colors = [((part.float() - mean) @ axes.T - low) / (high - low).clamp(min=1e-6) for part in (found, target)]
    colors = [F.pad(color, (0, 3 - color.shape[-1])) for color in colors]  # fewer than three channels
    return [color.nan_to_num(GRAY).clamp(0, 1).transpose(1, 2).unflatten(2, tuple(grid)) for color in colors]


@contextmanager
def fixed_chance(seed: int) -> Iterator[None]:
    """Seed Python, numpy and torch inside the block, and give them their state back after it."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
