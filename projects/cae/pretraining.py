"""What CAE and CAE v2 share: reading a batch, frozen targets, checks.

Shapes: ``B`` images, ``N`` patches, ``C`` channels.
"""

from __future__ import annotations

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn


def require_finite(what: str, tensor: Tensor, advice: str) -> None:
    """Raise ``FloatingPointError`` if a tensor holds NaN or infinity."""
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise FloatingPointError(f'{bad} of {tensor.numel()} values of {what} are NaN or infinite; {advice}')


def is_from_file(target: nn.Module) -> bool:
    """Tell whether the weights of a target, or of a part of it, are read from a checkpoint."""
    configs = [getattr(module, 'init_cfg', None) for module in target.modules()]
    return any(isinstance(cfg, dict) and cfg.get('type') == 'Pretrained' for cfg in configs)


def _drop_target(model: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
    """Leave a target that has a file of its own out of the checkpoints."""
    if is_from_file(model.target_generator):
        for name in [name for name in state if name.startswith(f'{prefix}target_generator.')]:
            del state[name]


def _forgive_target(model: nn.Module, incompatible_keys: tuple) -> None:
    """Do not call it missing when such a checkpoint is read."""
    if is_from_file(model.target_generator):
        missing = incompatible_keys.missing_keys
        missing[:] = [name for name in missing if not name.startswith('target_generator.')]


class PretrainMixin:
    """Parts of an algorithm; put it before a ``BaseSelfSupervisor`` with backbone, neck, head and target generator.

    The target network is frozen and in evaluation mode whatever ``train()`` says. If it has a file of its own
    (``init_cfg=dict(type='Pretrained', …)``) it stays out of the checkpoints, which are then a third smaller.
    """

    def set_up(self, check_finite: bool) -> None:
        """Check that the parts fit; freeze the target.

        Raises:
            ValueError: Backbone and neck disagree about the grid or the channels, or there is no target.
        """
        self.check_finite = check_finite
        grid, channels = tuple(self.backbone.patch_resolution), self.backbone.embed_dims
        if grid != self.neck.grid_size:
            raise ValueError(f'grid_size={self.neck.grid_size} of the neck, but the backbone has {grid} patches')
        expected = self.neck.embed_dim if self.neck.projection is None else self.neck.projection.in_features
        if channels != expected:
            raise ValueError(f'the neck takes {expected} channels, but the backbone gives {channels} (set in_channels)')
        if self.target_generator is None:
            raise ValueError(f'{type(self).__name__} needs a target_generator')
        self.target_generator.requires_grad_(False)
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
            ValueError: A sample has no mask.
        """
        views = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if any('mask' not in sample for sample in data_samples):
            raise ValueError('a sample has no mask: put InclusiveBlockMask before PackInputs in the pipeline')
        mask = torch.stack([sample.mask for sample in data_samples]).flatten(1)
        return views[0], views[-1], mask.to(views[0].device, torch.bool)

    @torch.no_grad()
    def make_target(self, images: Tensor) -> Tensor:
        """Run the frozen target on images ``(B, 3, H, W)``.

        Raises:
            FloatingPointError: It gave NaN or infinity.
        """
        target = self.target_generator(images)
        if self.check_finite:
            advice = "look at the images and at the target's weights and precision"
            require_finite(f'the target of {type(self.target_generator).__name__}', target, advice)
        return target

    def checked(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses.

        Raises:
            FloatingPointError: One is NaN or infinite.
        """
        if self.check_finite:
            values = torch.stack([loss.detach().float() for loss in losses.values()])
            text = ', '.join(f'{name}={value:g}' for name, value in zip(losses, values.tolist(), strict=True))
            require_finite(f'the loss ({text})', values, 'try a lower learning rate, gradient clipping or bfloat16')
        return losses
