"""Layers that take a tensor or ``SparseFeatures``, and the conversion of a network to them.

On a tensor ``(B, C, H, W)`` each is the layer that it inherits from, bit by bit: a network without a mask is the plain
one. On ``SparseFeatures`` the engine of the features computes it. Names and shapes of parameters do not change, and
each layer is called, so that its hooks fire; what they see is ``SparseFeatures``.
"""

from functools import cache, partial

from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import Tensor, nn

from .engine import SparseFeatures

Features = Tensor | SparseFeatures


class _Conv:
    def forward(self, x: Features) -> Features:
        return x.engine.conv(x, self, super().forward) if isinstance(x, SparseFeatures) else super().forward(x)


class _Pool:
    def forward(self, x: Features) -> Features:
        return x.engine.pool(x, self, super().forward) if isinstance(x, SparseFeatures) else super().forward(x)


class _EachSite:
    """Norms, whose statistics are those of visible sites, and linear layers."""

    def forward(self, x: Features, *args, **kwargs) -> Features:
        if not isinstance(x, SparseFeatures):
            return super().forward(x, *args, **kwargs)
        plain = super().forward
        return x.engine.each_site(x, lambda rows: plain(rows, *args, **kwargs))


class _Pointwise:
    """Functions of a number that keep 0, so that hidden sites of a map need no mask."""

    def forward(self, x: Features) -> Features:
        return x.with_data(super().forward(x.data)) if isinstance(x, SparseFeatures) else super().forward(x)


class _PerImage:
    """Stochastic depth: an image keeps or loses the branch as a whole."""

    def forward(self, x: Features) -> Features:
        if not isinstance(x, SparseFeatures):
            return super().forward(x)
        ones = x.data.new_ones(x.mask.batch_size, 1)
        return x.engine.scale_images(x, super().forward(ones)) if self.training else x


class _GlobalPool:
    """Mean over the visible sites, as squeeze-and-excitation needs it: a tensor ``(B, C, 1, 1)``."""

    def forward(self, x: Features) -> Tensor:
        return x.mean((2, 3), keepdim=True) if isinstance(x, SparseFeatures) else super().forward(x)


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
        return x.engine.each_site(x, norm) if isinstance(x, SparseFeatures) else norm(x)


# By class and module, for timm is optional and mmpretrain's names are many. None: for tensors, as the gate of a
# squeeze-and-excitation is; a function that they call on features says so.
FORMS: dict[str, type | None] = {
    **dict.fromkeys(('Conv2d', 'Conv2dAdaptivePadding', 'Conv2dSame'), _Conv),
    **dict.fromkeys(('MaxPool2d', 'AvgPool2d'), _Pool),
    **dict.fromkeys(('BatchNorm2d', 'BatchNormAct2d'), _EachSite),
    **dict.fromkeys(('LayerNorm', 'LayerNorm2d', 'LN2d', 'Linear'), _EachSite),
    **dict.fromkeys(('ReLU', 'ReLU6', 'LeakyReLU', 'SiLU', 'Swish', 'GELU', 'Hardswish', 'HSwish'), _Pointwise),
    **dict.fromkeys(('Dropout', 'Identity', 'HardSwish', 'GELUTanh'), _Pointwise),
    'DropPath': _PerImage,
    **dict.fromkeys(('AdaptiveAvgPool2d', 'GlobalAveragePooling'), _GlobalPool),
    **dict.fromkeys(('Sigmoid', 'Hardsigmoid', 'HSigmoid', 'HardSigmoid', 'Flatten'), None),
}
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # some are empty
LIBRARIES = ('torch', 'mmcv', 'mmengine', 'mmpretrain', 'timm')


@cache
def active_class(kind: type) -> type:
    """Return the class of a layer that takes ``SparseFeatures`` too."""
    if kind in (nn.SyncBatchNorm, SyncBatchNorm):  # what 'SyncBN' builds; torch's with another check of dimensions
        return ActiveSyncBatchNorm
    form = FORMS[kind.__name__]
    return kind if form is None else type(f'Active{kind.__name__}', (form, kind), {'__doc__': kind.__doc__})


def is_active(layer: nn.Module) -> bool:
    """Tell whether a layer was converted."""
    return isinstance(layer, (_Conv, _Pool, _EachSite, _Pointwise, _PerImage, _GlobalPool, ActiveSyncBatchNorm))


def to_active(network: nn.Module) -> nn.Module:
    """Let the layers of a network take ``SparseFeatures``, in place.

    Only the class changes: parameters, buffers, names, hooks and settings are those that the host gave them.

    Args:
        network: A layer or a network of them; blocks and containers are left as they are.

    Returns:
        The same object.

    Raises:
        ValueError: A layer has no sparse form, or an option without one: padding with other values than 0, an average
            that leaves its padding out, an adaptive pool to more than one site, activation checkpointing.
    """
    for name, layer in network.named_modules():
        if getattr(layer, 'with_cp', False):
            raise ValueError(f'{name or "layer"}: with_cp=True computes again when the mask is gone; set it to False')
        if is_active(layer):
            continue
        kind = type(layer)
        known = kind.__name__ in FORMS or kind.__name__ == 'SyncBatchNorm'
        if not known or kind.__module__.partition('.')[0] not in LIBRARIES:
            if next(layer.children(), None) is None and not isinstance(layer, CONTAINERS):
                raise ValueError(f'{name or "layer"}: {layer} has no sparse form; these have one: {", ".join(FORMS)}')
            continue
        if getattr(layer, 'padding_mode', 'zeros') != 'zeros':
            raise ValueError(f'{name or "layer"}: {layer} cannot be sparse: zero padding only')
        if isinstance(layer, nn.AvgPool2d) and layer.padding not in (0, (0, 0)) and not layer.count_include_pad:
            raise ValueError(f'{name or "layer"}: {layer} cannot be sparse: what is hidden counts as padding does')
        if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size not in (1, (1, 1)):
            raise ValueError(f'{name or "layer"}: {layer} cannot be sparse: it must pool to one site')
        layer.__class__ = active_class(kind)
    return network


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
