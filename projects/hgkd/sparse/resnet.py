"""The ResNet of SparK (arXiv 2301.03580) and H-GKD: one encoder, three engines, the host's checkpoints."""

from collections.abc import Sequence

from mmpretrain.models import SparseResNet
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .encoder import SparseEncoder, build_engine
from .engine import SparseFeatures
from .layers import plain_norm, to_active


@MODELS.register_module()
class HGKDSparseResNet(SparseEncoder, SparseResNet):
    """ResNet-18/34/50/101/152 on the visible part of images.

    mmpretrain's ``SparseResNet`` with the mask as an argument instead of a class attribute (so that inference needs
    none and no forward meets the mask of another), any multiple of the stride as height and width, and a choice of
    engine. State dicts are those of mmpretrain's ``ResNet`` of the same depth, strictly, whatever the engine.

    Args:
        depth: 18, 34, 50, 101 or 152.
        backend: Engine under a mask, see :class:`SparseEncoder`.
        norm_cfg: 'BN' or 'SyncBN'; mmpretrain's names of the sparse ones mean the same.
        out_indices: Stages to return; all four for pre-training.
        **kwargs: Of ``mmpretrain.models.ResNet``. ``with_cp`` has no sparse form.

    Raises:
        ValueError: Unknown engine, or an option without a sparse form.
        ImportError: 'spconv' is not installed, broken, or there twice.
    """

    def __init__(
        self,
        depth: int,
        backend: str = 'auto',
        norm_cfg: dict = dict(type='SyncBN'),  # noqa: B006 - only read; the style of the host
        out_indices: Sequence[int] = (0, 1, 2, 3),
        **kwargs,
    ) -> None:
        build_engine(backend)  # what is missing is said here, not in the first forward
        self.backend = backend
        super().__init__(depth, norm_cfg=plain_norm(norm_cfg), out_indices=out_indices, **kwargs)

    def dense_model_to_sparse(self, m: nn.Module, enable_sync_bn: bool) -> nn.Module:
        """Let the layers take sparse features; the host would replace them by ones that read its class attribute."""
        return to_active(m)

    def plain(self, x: Tensor | SparseFeatures) -> tuple[Tensor | SparseFeatures, ...]:
        """Maps of images ``(B, C, H, W)`` or of the features of their visible part."""
        return SparseResNet.forward(self, x)

    def train(self, mode: bool = True) -> 'HGKDSparseResNet':
        """Set the mode. Returns the module, as torch's does and the host's does not."""
        super().train(mode)
        return self
