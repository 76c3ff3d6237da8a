"""What CAE and CAE v2 share: reading a batch, frozen targets, checks.

Shapes: ``B`` images, ``N`` patches, ``C`` channels.
"""

from __future__ import annotations

from math import isfinite

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmplugins.utils.encoders import pretrained_of

from .tokens import common_count


def note_num_masked(preprocessor: nn.Module, args: tuple) -> None:
    """Count the masked patches while the batch is still on the CPU; counting on a GPU would make the CPU wait."""
    samples = args[0].get('data_samples') or []
    if all('mask' in sample for sample in samples) and samples:
        num_masked = common_count(torch.stack([sample.mask for sample in samples]).flatten(1))
        for sample in samples:
            sample.set_metainfo(dict(num_masked=num_masked))


def is_from_file(target: nn.Module) -> bool:
    """Tell whether the weights of a target, or of a part of it, are read from where they were published."""
    return any(
        getattr(part, 'published', False) or pretrained_of(getattr(part, 'init_cfg', None)) for part in target.modules()
    )


def _drop_target(model: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
    """Leave a target that has a file of its own out of the checkpoints."""
    if is_from_file(model.target_generator):
        for name in [name for name in state if name.startswith(f'{prefix}target_generator.')]:
            del state[name]


def _forgive_target(model: nn.Module, incompatible_keys: tuple) -> None:
    """Do not call it missing when such a checkpoint is read."""
    if is_from_file(model.target_generator):
        missing = incompatible_keys.missing_keys
        missing[:] = [name for name in missing if 'target_generator.' not in name]  # also inside of an average


class PretrainMixin:
    """Parts of an algorithm; put it before a ``BaseSelfSupervisor`` with backbone, neck, head and target generator.

    The target network is frozen and in evaluation mode whatever ``train()`` says. If it has a file of its own
    (``init_cfg=dict(type='Pretrained', …)``) it stays out of the checkpoints, which are then a third smaller.

    ``check_interval``: in the first step and each so many steps a loss that is NaN or infinite is an error. 0: never.
    Looking makes the host wait for the device, so it is not done in each step.
    """

    def set_up(self, check_interval: int) -> None:
        """Check that the parts fit; freeze the target.

        Raises:
            ValueError: Backbone and neck disagree about the grid or the channels, or there is no target.
        """
        self.check_interval, self.num_steps = check_interval, 0
        grid, channels = tuple(self.backbone.patch_resolution), self.backbone.embed_dims
        if grid != self.neck.grid_size:
            raise ValueError(f'grid_size={self.neck.grid_size} of the neck, but the backbone has {grid} patches')
        expected = self.neck.embed_dim if self.neck.projection is None else self.neck.projection.in_features
        if channels != expected:
            raise ValueError(f'the neck takes {expected} channels, but the backbone gives {channels} (set in_channels)')
        if self.target_generator is None:
            raise ValueError(f'{type(self).__name__} needs a target_generator')
        self.target_generator.requires_grad_(False)
        self.data_preprocessor.register_forward_pre_hook(note_num_masked)
        self._register_state_dict_hook(_drop_target)
        self.register_load_state_dict_post_hook(_forgive_target)

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode of all parts but the target."""
        super().train(mode)
        self.target_generator.eval()
        return self

    def extract_feat(self, inputs: Tensor | list[Tensor]) -> tuple[Tensor, ...]:
        """Return the features of whole images ``(B, 3, H, W)``; of the first view, where there are two."""
        return self.backbone(inputs[0] if isinstance(inputs, (list, tuple)) else inputs)

    def read_batch(
        self, inputs: Tensor | list[Tensor], data_samples: list[DataSample]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, target images, and masks ``(B, N)``.

        Args:
            inputs: ``(B, 3, H, W)``, or a list of one or two such views; the second is for the target.
            data_samples: Each with a ``mask`` ``(h, w)``.

        Raises:
            ValueError: A sample has no mask, or one of another grid.
        """
        views = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if any('mask' not in sample for sample in data_samples):
            raise ValueError('a sample has no mask: put InclusiveBlockMask before PackInputs in the pipeline')
        mask = torch.stack([sample.mask for sample in data_samples])
        grid = tuple(self.backbone.patch_resolution)
        if tuple(mask.shape[1:]) != grid:
            raise ValueError(
                f'masks of shape {tuple(mask.shape[1:])} for a grid of {grid} patches, both (rows, columns): set '
                f'input_size={grid} in the mask of the pipeline'
            )
        dtype = self.backbone.cls_token.dtype  # not float32 where the whole model was cast
        return views[0].to(dtype), views[-1], mask.flatten(1).to(views[0].device, torch.bool)

    @torch.no_grad()
    def make_target(self, images: Tensor) -> Tensor:
        """Run the frozen target on images ``(B, 3, H, W)``."""
        parameter = next(self.target_generator.parameters(), images)
        return self.target_generator(images.to(parameter.dtype))

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the losses, as the host does.

        Raises:
            FloatingPointError: One is NaN or infinite; see ``check_interval``.
        """
        if self.check_interval and self.num_steps % self.check_interval == 0:
            values = {name: float(value.detach()) for name, value in losses.items()}
            if not all(map(isfinite, values.values())):
                raise FloatingPointError(
                    f'a loss is NaN or infinite ({values}): look at the images and the target, try a lower learning '
                    f'rate, gradient clipping or bfloat16'
                )
        self.num_steps += 1
        return super().parse_losses(losses)
