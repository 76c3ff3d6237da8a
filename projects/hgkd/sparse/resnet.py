"""ResNet whose sites are visible or not: one definition of the encoder, three engines, the host's checkpoints.

SparK (arXiv 2301.03580, sec. 3.2) for the layers; the engines are ours. Legend: ``B`` images, ``C`` channels, ``H, W``
their sides in pixels or sites, ``h, w`` cells of the mask.
"""

from collections.abc import Sequence

import torch
from mmpretrain.models import SparseResNet
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..masks import ActiveMask
from .dense import DenseEngine
from .engine import Engine, SparseFeatures
from .layers import plain_norm, to_active
from .rows import RowsEngine
from .spconv import SpconvEngine

ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (DenseEngine, RowsEngine, SpconvEngine)}


@MODELS.register_module()
class HGKDSparseResNet(SparseResNet):
    """ResNet-18/34/50/101/152 on the visible part of images.

    mmpretrain's ``SparseResNet`` with the mask as an argument instead of a class attribute (so that inference needs
    none and no forward meets the mask of another), any multiple of the stride as height and width, and a choice of
    engine. State dicts are those of mmpretrain's ``ResNet`` of the same depth, strictly, whatever the engine.

    Args:
        depth: 18, 34, 50, 101 or 152.
        backend: Engine under a mask: 'dense' (SparK's way), 'rows' (visible sites only, in torch), 'spconv'
            (visible sites, convolutions of that library) or 'auto': 'dense' on CUDA, 'rows' on a CPU. Not in the
            papers; spconv is H-GKD's word for the encoder, no engine is named.
        norm_cfg: 'BN' or 'SyncBN'; mmpretrain's names of the sparse ones mean the same.
        out_indices: Stages to return; all four for pre-training.
        **kwargs: Of ``mmpretrain.models.ResNet``. ``avg_down`` and ``with_cp`` have no sparse form.

    Raises:
        ValueError: Unknown engine, or an option without a sparse form.
        ImportError: 'spconv' is not installed, or twice.
    """

    def __init__(
        self,
        depth: int,
        backend: str = 'auto',
        norm_cfg: dict = dict(type='SyncBN'),  # noqa: B006 - only read; the style of the host
        out_indices: Sequence[int] = (0, 1, 2, 3),
        **kwargs,
    ) -> None:
        for name in ('avg_down', 'with_cp'):
            if kwargs.get(name):
                raise ValueError(f'{type(self).__name__}: {name}=True has no sparse form')
        build_engine(backend)  # what is missing is said here, not in the first forward
        self.backend = backend
        super().__init__(depth, norm_cfg=plain_norm(norm_cfg), out_indices=out_indices, **kwargs)

    def dense_model_to_sparse(self, m: nn.Module, enable_sync_bn: bool) -> nn.Module:
        """Let the layers take sparse features; the host would replace them by ones that read its class attribute."""
        return to_active(m)

    def encode(self, x: Tensor, active: ActiveMask) -> tuple[SparseFeatures, ...]:
        """Features of the visible part in the layout of the engine.

        Args:
            x: Images ``(B, C, H, W)``; hidden pixels are not read.
            active: Visible cells.

        Returns:
            Those of ``out_indices``, from the largest map to the smallest.

        Raises:
            ValueError: Images and mask do not fit each other.
        """
        active.check_images(x)
        engine = build_engine(self.backend, x.device)
        return super().forward(engine.start(x, active))

    def forward(self, x: Tensor, active: Tensor | ActiveMask | None = None) -> tuple[Tensor, ...]:
        """Maps of the stages.

        Args:
            x: Images ``(B, C, H, W)``. Under a mask, both sides are the same multiple of the mask's.
            active: ``(B, 1, h, w)`` bool, True is visible. None, or all True: that of a plain ResNet, to the bit.

        Returns:
            ``(B, C_i, H_i, W_i)`` of ``out_indices``, 0 at hidden sites.
        """
        if active is None:
            return super().forward(x)
        mask = active if isinstance(active, ActiveMask) else ActiveMask(active)
        mask.check_images(x)
        if mask.num_cells == mask.cells.numel():
            return super().forward(x)
        return tuple(features.dense() for features in self.encode(x, mask))

    def train(self, mode: bool = True) -> 'HGKDSparseResNet':
        """Set the mode. Returns the module, as torch's does and the host's does not."""
        super().train(mode)
        return self


def build_engine(backend: str, device: torch.device | str = 'cpu') -> Engine:
    """Engine of a name.

    Args:
        backend: 'dense', 'rows', 'spconv', or 'auto': 'dense' on CUDA, 'rows' on a CPU, 'spconv' never.
        device: Where the features are; decides 'auto'.

    Raises:
        ValueError: Unknown name.
        ImportError: spconv is asked for and not installed, or installed twice.
    """
    if backend == 'auto':
        backend = 'rows' if torch.device(device).type == 'cpu' else 'dense'
    if backend not in ENGINES:
        raise ValueError(f'backend must be one of auto, {", ".join(ENGINES)}, got {backend!r}')
    return ENGINES[backend]()
