"""The mask of mmpretrain's own sparse backbones, set for the time of a call."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmpretrain.models.utils.sparse_modules import SparseHelper

from .masks import ActiveMask


@contextmanager
def host_mask(mask: ActiveMask) -> Iterator[None]:
    """Put a mask where mmpretrain's sparse layers look for it, and take it away again whatever happens.

    They read a class attribute: without one they fail, with that of an earlier batch they hide what should be seen.

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
