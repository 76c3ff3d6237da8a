"""An encoder on the visible part of images: what each kind has in common, and that of any CNN.

SparK (arXiv 2301.03580, sec. 3.2) for the layers; the engines are ours. Legend: ``B`` images, ``C`` channels, ``H, W``
their sides in pixels or sites, ``h, w`` cells of the mask.
"""

import copy
from collections.abc import Callable

import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..masks import ActiveMask
from .dense import DenseEngine
from .engine import Engine, SparseFeatures
from .layers import to_active
from .rows import RowsEngine
from .spconv import SpconvEngine

ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (DenseEngine, RowsEngine, SpconvEngine)}


class SparseEncoder:
    """An encoder with a mask as an argument; a base beside the class of the network.

    Attributes:
        backend: Engine under a mask: 'dense' (SparK's way), 'rows' (visible sites only, in torch), 'spconv' (visible
            sites, convolutions of that library) or 'auto': 'dense' on CUDA, 'rows' on a CPU. Not in the papers; spconv
            is H-GKD's word for the encoder, no engine is named.
        plain: The network's own forward, of images or features.
    """

    backend: str
    plain: Callable

    def encode(self, x: Tensor, active: ActiveMask) -> tuple[SparseFeatures, ...]:
        """Features of the visible part in the layout of the engine.

        Args:
            x: Images ``(B, C, H, W)``; hidden pixels are not read.
            active: Visible cells.

        Returns:
            From the largest map to the smallest.

        Raises:
            ValueError: Images and mask do not fit each other.
        """
        active.check_images(x)
        return self.plain(build_engine(self.backend, x.device).start(x, active))

    def forward(self, x: Tensor, active: Tensor | ActiveMask | None = None) -> tuple[Tensor, ...]:
        """Maps of the stages.

        Args:
            x: Images ``(B, C, H, W)``. Under a mask, both sides are the same multiple of the mask's.
            active: ``(B, 1, h, w)`` bool, True is visible. None, or all True: that of the plain network, to the bit.

        Returns:
            ``(B, C_i, H_i, W_i)``, 0 at hidden sites.
        """
        if active is None:
            return self.plain(x)
        mask = active if isinstance(active, ActiveMask) else ActiveMask(active)
        mask.check_images(x)
        if mask.num_cells == mask.cells.numel():
            return self.plain(x)
        return tuple(features.dense() for features in self.encode(x, mask))


@MODELS.register_module()
class HGKDSparseBackbone(SparseEncoder, BaseModule):
    """Any CNN of mmpretrain or timm on the visible part of images, if each of its layers has a sparse form.

    Convolutions with groups and depthwise ones, norms of batches and channels, activations that keep 0, pools and
    squeeze-and-excitation, which sees the visible sites: MobileNet, EfficientNet, RegNet, ResNeXt, ConvNeXt, RepVGG and
    others. Not in the papers, whose student is a ResNet.

    Args:
        backbone: Config of the network, which returns its maps: ``dict(type='MobileNetV3', arch='small',
            out_indices=(1, 3, 8, 12))``, ``dict(type='TIMMBackbone', features_only=True, model_name='regnety_002')``.
        backend: Engine, see :class:`SparseEncoder`.
        init_cfg: As in ``BaseModule``.

    Raises:
        ValueError: Unknown engine, or a layer or option without a sparse form.
        ImportError: 'spconv' is asked for and not installed, broken, or there twice.
    """

    def __init__(self, backbone: dict | nn.Module, backend: str = 'auto', init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        build_engine(backend)  # what is missing is said here, not in the first forward
        self.backend = backend
        if not isinstance(backbone, nn.Module):
            backbone = MODELS.build({'_scope_': 'mmpretrain', **copy.deepcopy(backbone)})
        self.net = to_active(backbone)

    def plain(self, x: Tensor | SparseFeatures) -> tuple[Tensor | SparseFeatures, ...]:
        """Maps of images ``(B, C, H, W)`` or of the features of their visible part."""
        out = self.net(x)
        return tuple(out) if isinstance(out, (list, tuple)) else (out,)


def build_engine(backend: str, device: torch.device | str = 'cpu') -> Engine:
    """Engine of a name.

    Args:
        backend: 'dense', 'rows', 'spconv', or 'auto': 'dense' on CUDA, 'rows' on a CPU, 'spconv' never.
        device: Where the features are; decides 'auto'.

    Raises:
        ValueError: Unknown name.
        ImportError: spconv is asked for and not installed, broken, or there twice.
    """
    if backend == 'auto':
        backend = 'rows' if torch.device(device).type == 'cpu' else 'dense'
    if backend not in ENGINES:
        raise ValueError(f'backend must be one of auto, {", ".join(ENGINES)}, got {backend!r}')
    return ENGINES[backend]()
