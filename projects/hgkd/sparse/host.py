"""mmpretrain's own sparse backbones (``SparseConvNeXt``), whose layers read the mask from a class attribute.

Legend: ``B`` images, ``C`` channels, ``H, W`` their sides in pixels or sites.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mmpretrain.models.utils.sparse_modules import SparseHelper
from torch import Tensor, nn

from ..masks import ActiveMask
from .dense import DenseEngine
from .engine import SparseFeatures


@contextmanager
def host_mask(mask: ActiveMask) -> Iterator[None]:
    """Put a mask where mmpretrain's sparse layers look for it, and take it away again whatever happens.

    Without one they fail, with that of an earlier batch they hide what should be seen.

    Args:
        mask: Visible cells, as many in height as in width.

    Raises:
        ValueError: The mask is not square; those layers take the cell's side from the width for both sides.
    """
    if mask.grid[0] != mask.grid[1]:
        raise ValueError(
            f"a mask of {mask.grid[0]} x {mask.grid[1]} cells: mmpretrain's sparse layers (SparseConvNeXt) need square "
            'images; HGKDSparseResNet does not'
        )
    before = SparseHelper._cur_active
    SparseHelper._cur_active = mask.cells
    try:
        yield
    finally:
        SparseHelper._cur_active = before


def host_encode(backbone: nn.Module, images: Tensor, mask: ActiveMask) -> tuple[SparseFeatures, ...]:
    """Features of the visible part of images ``(B, 3, H, W)``, each ``(B, C_i, H_i, W_i)``, the largest map first."""
    start = DenseEngine().start(images, mask)
    with host_mask(mask):
        maps = backbone(start.data)
    return tuple(start.with_data(x, tuple(x.shape[2:])) for x in maps)
