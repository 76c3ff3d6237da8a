"""The two usual backbones of few-shot learning, for mmpretrain's ``ImageClassifier``.

``B`` images, ``C`` channels, ``F`` features. Normalization uses the statistics of the batch and keeps no running ones,
in training and in test (R-MAML's code); that is ``nn.BatchNorm2d(track_running_stats=False)``.

Follows Finn et al. 2017 (Conv4) and github.com/wangren09/MetaAdv (MIT; read, not copied) for strides, padding
and the order convolution, ReLU, norm; ResNet-12 as in Oreshkin et al. 2018 without DropBlock.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from torch import Tensor, nn


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Normalize with the statistics of the batch, always."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


class ConvBlock(BaseModule):
    """Convolution, ReLU, norm, pool; ``(B, C_in, H, W)`` to ``(B, C_out, H', W')``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: Of the convolution.
        pool_stride: Of the 2x2 max pooling; 0: no pooling.
        norm_first: Norm before the ReLU, as in MAML's own code.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        pool_stride: int = 2,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.norm = batch_norm(out_channels)
        self.pool_stride, self.norm_first = pool_stride, norm_first

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the block."""
        x = self.conv(x)
        x = F.relu(self.norm(x)) if self.norm_first else self.norm(F.relu(x))
        return F.max_pool2d(x, 2, self.pool_stride) if self.pool_stride else x


@MODELS.register_module()
class Conv4(BaseBackbone):
    """Four blocks of convolution, ReLU, norm, pooling; ``(B, C, H, W)`` in, a tuple of flat features ``(B, F)`` out.

    The defaults are the network of R-MAML for miniImageNet: 84x84 pixels give ``F = 800``; with the linear head of five
    classes 32,901 weights.

    Args:
        in_channels: 3, or 1 for drawings.
        channels: Of the four blocks, or one number for all.
        kernel_sizes, strides: Of the convolutions.
        padding: Of the convolutions, 0 or 1.
        pool_strides: Of the 2x2 max pooling behind each block; 0: none.
        norm_first: Norm before the ReLU; R-MAML's code has it behind.
        init_cfg: Of mmengine; default: Kaiming normal, biases zero, as R-MAML's code.
    """

    def __init__(
        self,
        in_channels: int = 3,
        channels: int | Sequence[int] = 32,
        kernel_sizes: Sequence[int] = (3, 3, 3, 3),
        strides: Sequence[int] = (1, 1, 1, 1),
        padding: int = 0,
        pool_strides: Sequence[int] = (2, 2, 2, 1),
        norm_first: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type='Kaiming', layer='Conv2d', mode='fan_in'))
        channels = [channels] * len(strides) if isinstance(channels, int) else channels
        per_block = dict(channels=channels, kernel_sizes=kernel_sizes, strides=strides, pool_strides=pool_strides)
        if len({len(values) for values in per_block.values()}) > 1:
            raise ValueError(f'these differ in length: {per_block}')
        blocks = []
        for out, kernel, stride, pool in zip(*per_block.values(), strict=True):
            blocks.append(ConvBlock(in_channels, out, kernel, stride, padding, pool, norm_first))
            in_channels = out
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return ``((B, F),)``."""
        return (self.blocks(x).flatten(1),)


class ResidualBlock(BaseModule):
    """Three convolutions with norm, a 1x1 shortcut, leaky ReLU, pooling; ``(B, C, H, W)`` to ``(B, C', H/2, W/2)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [
                nn.Conv2d(in_channels if i == 0 else out_channels, out_channels, 3, padding=1, bias=False),
                batch_norm(out_channels),
                nn.LeakyReLU(0.1),
            ]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), batch_norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the block."""
        return F.max_pool2d(F.leaky_relu(self.body(x) + self.shortcut(x), 0.1), 2)


@MODELS.register_module()
class ResNet12(BaseBackbone):
    """ResNet-12 of few-shot learning; ``(B, C, H, W)`` in, a tuple of one map ``(B, C', H/16, W/16)`` out.

    Put ``GlobalAveragePooling`` behind it. 84x84 pixels give 5x5 positions.

    Args:
        in_channels: Of the image.
        channels: Of the four blocks; ``(64, 160, 320, 640)`` is the wide one.
        init_cfg: Of mmengine; default: Kaiming normal for leaky ReLU.
    """

    def __init__(
        self,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 128, 256, 512),
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(
            init_cfg or dict(type='Kaiming', layer='Conv2d', mode='fan_in', a=0.1, nonlinearity='leaky_relu')
        )
        widths = [in_channels, *channels]
        self.blocks = nn.Sequential(*(ResidualBlock(widths[i], widths[i + 1]) for i in range(len(channels))))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return ``((B, C', H/16, W/16),)``."""
        return (self.blocks(x),)


class InstanceNorm(nn.GroupNorm):
    """Statistics of each image and channel over its positions; ``(B, C, ...)`` to the same.

    Not ``nn.InstanceNorm2d``, which takes an input without ``B`` as well, and whose error names no layer.

    Args:
        replaced: The batch norm whose place it takes. Its weight and bias stay, which may be pretrained; so do dropout
            and activation of timm's ``BatchNormAct2d``.
        name: Of that layer, for errors.

    Raises:
        ValueError: A batch norm of another kind, which computes something of its own.
    """

    def __init__(self, replaced: nn.modules.batchnorm._BatchNorm, name: str) -> None:
        channels = replaced.num_features
        super().__init__(channels, channels, replaced.eps, replaced.affine)
        self.weight, self.bias, self.name = replaced.weight, replaced.bias, name
        self.drop = self.act = nn.Identity()
        if type(replaced).__name__ == 'BatchNormAct2d':  # by name: timm is optional
            self.drop, self.act = replaced.drop, replaced.act
        elif type(replaced).forward is not nn.modules.batchnorm._BatchNorm.forward:
            raise ValueError(
                f"norm='instance': {name} is a {type(replaced).__name__}, which does more than a batch norm: use "
                "norm='task_batch', or a plain batch norm there"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Normalize.

        Raises:
            ValueError: A channel has one position: less its own mean it is 0, whatever the image.
        """
        if x.shape[2:].numel() < 2:
            raise ValueError(
                f"norm='instance': {self.name} sees one position a channel, {tuple(x.shape)}, and would return 0 for "
                "every image. Use norm='task_batch', larger images, smaller strides, or no norm there"
            )
        return self.act(self.drop(super().forward(x)))


def use_batch_statistics(network: nn.Module, norm: str = 'task_batch') -> list[str]:
    """Make every batch norm of a network work in few-shot learning, in place.

    Running statistics would mix tasks, and a task has too few images for its own.

    Args:
        network: Any network.
        norm: ``task_batch``: statistics of the batch at hand, also in test and under attack (R-MAML's code); the
            prediction for an image depends on the other query images (transductive). ``instance``: of each image, see
            ``InstanceNorm``; a layer that sees one position then raises a ValueError.

    Returns:
        Names of the layers that kept running statistics before, or were replaced.

    Raises:
        ValueError: An unknown ``norm``; a synchronized batch norm: statistics of a task are not shared by ranks; or one
            that ``InstanceNorm`` cannot replace.
    """
    if norm not in ('task_batch', 'instance'):
        raise ValueError(f"norm must be 'task_batch' or 'instance', got {norm!r}")
    changed = []
    for name, module in list(network.named_modules()):
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if isinstance(module, nn.SyncBatchNorm):
            raise ValueError(f"{name} is a SyncBN: ranks hold different tasks here; use norm_cfg=dict(type='BN')")
        if norm == 'instance':
            parent, _, attribute = name.rpartition('.')
            setattr(network.get_submodule(parent), attribute, InstanceNorm(module, name))
            changed.append(name)
        elif module.track_running_stats:
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False
            changed.append(name)
    return changed
