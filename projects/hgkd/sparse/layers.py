"""Layers that take a tensor or ``SparseFeatures``, and the conversion of a module to them.

On a tensor ``(B, C, H, W)`` each is the torch layer that it inherits from, bit by bit: a network without a mask is the
plain one. On ``SparseFeatures`` the engine of the features computes it. Names and shapes of parameters do not change.
"""

from functools import partial

from mmcv.cnn.bricks import DropPath
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import Tensor, nn

from .engine import SparseFeatures

Features = Tensor | SparseFeatures


class ActiveConv2d(nn.Conv2d):
    """Submanifold convolution of ``(B, C, H, W)`` or ``SparseFeatures``."""

    def forward(self, x: Features) -> Features:
        """Convolve; shapes as ``nn.Conv2d``."""
        return x.engine.conv(x, self) if isinstance(x, SparseFeatures) else super().forward(x)


class ActiveBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of ``(B, C, H, W)`` or ``SparseFeatures``, whose statistics are those of the visible sites."""

    def forward(self, x: Features) -> Features:
        """Normalize; shapes as ``nn.BatchNorm2d``."""
        return x.engine.norm(x, super().forward) if isinstance(x, SparseFeatures) else super().forward(x)


class ActiveSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over all ranks, of ``(B, C, H, W)`` or ``SparseFeatures``; one rank needs no process group.

    Not a child of torch's: in a run of one process mmengine's runner replaces those by plain ones, which know no
    ``SparseFeatures``.
    """

    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, x: Features) -> Features:
        """Normalize; shapes as ``nn.SyncBatchNorm``."""
        norm = partial(nn.SyncBatchNorm.forward, self)
        return x.engine.norm(x, norm) if isinstance(x, SparseFeatures) else norm(x)


class ActiveMaxPool2d(nn.MaxPool2d):
    """Max-pool of ``(B, C, H, W)``, or of ``SparseFeatures`` that are not negative."""

    def forward(self, x: Features) -> Features:
        """Pool; shapes as ``nn.MaxPool2d``."""
        return x.engine.max_pool(x, self) if isinstance(x, SparseFeatures) else super().forward(x)


class ActiveReLU(nn.ReLU):
    """ReLU of ``(B, C, H, W)`` or ``SparseFeatures``."""

    def forward(self, x: Features) -> Features:
        """Rectify; shapes as ``nn.ReLU``."""
        return x.with_data(super().forward(x.data)) if isinstance(x, SparseFeatures) else super().forward(x)


class ActiveDropPath(DropPath):
    """Stochastic depth of ``(B, C, H, W)`` or ``SparseFeatures``: an image keeps or loses the branch as a whole."""

    def forward(self, x: Features) -> Features:
        """Drop; shapes as ``DropPath``."""
        if not isinstance(x, SparseFeatures):
            return super().forward(x)
        ones = x.data.new_ones(x.mask.batch_size)
        return x.engine.scale_images(x, super().forward(ones)) if self.training else x


LAYERS: dict[type, type] = {
    nn.Conv2d: ActiveConv2d,
    nn.BatchNorm2d: ActiveBatchNorm2d,
    nn.SyncBatchNorm: ActiveSyncBatchNorm,
    SyncBatchNorm: ActiveSyncBatchNorm,  # what 'SyncBN' builds; torch's with another check of dimensions
    nn.MaxPool2d: ActiveMaxPool2d,
    nn.ReLU: ActiveReLU,
    DropPath: ActiveDropPath,
}


def to_active(module: nn.Module) -> nn.Module:
    """Let the layers of a module take ``SparseFeatures``, in place.

    Only the class changes: parameters, buffers, names, hooks and settings are those that the host gave them.

    Args:
        module: A layer or a network of them; blocks and containers are left as they are.

    Returns:
        The same object.

    Raises:
        ValueError: A layer has no sparse form, or one that it cannot be converted to: grouped convolutions, padding
            with other values than 0, average pools, other norms.
    """
    for name, layer in module.named_modules():
        if next(layer.children(), None) is not None or isinstance(layer, (nn.Identity, *LAYERS.values())):
            continue
        if type(layer) not in LAYERS:
            kinds = sorted({cls.__name__ for cls in LAYERS})
            raise ValueError(f'{name or "layer"}: {layer} has no sparse form; only {", ".join(kinds)} have')
        if isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != 'zeros'):
            raise ValueError(f'{name or "layer"}: {layer} cannot be sparse: one group and zero padding only')
        layer.__class__ = LAYERS[type(layer)]
    return module


def plain_norm(cfg: dict) -> dict:
    """Config of the torch norm under one of mmpretrain's sparse ones, which know the mask of the whole process only.

    Args:
        cfg: Config of a norm layer; types without ``Sparse`` stay.

    Returns:
        A new dict.
    """
    names = {'SparseBatchNorm2d': 'BN', 'SparseSyncBatchNorm2d': 'SyncBN', 'SparseLN2d': 'LN2d'}
    kind = cfg['type'].rpartition('.')[2] if isinstance(cfg['type'], str) else cfg['type']
    return {**cfg, 'type': names.get(kind, cfg['type'])}
