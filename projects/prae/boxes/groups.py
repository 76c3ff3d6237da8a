"""Work on all (image, category) groups at once: groups of similar length are padded and stacked.

Letters: ``G`` groups of a chunk, ``L`` boxes of its longest group.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy import ndarray

SMALL = 2**15  # below this many padded pairs one chunk costs less than the calls of several


def group_bounds(key: ndarray) -> tuple[ndarray, ndarray]:
    """Return the first row and the length of each run of equal values of ``key`` ``(M,)``, which is sorted."""
    if not len(key):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    return starts, np.diff(np.concatenate([starts, [len(key)]]))


def strongest(key: ndarray, score: ndarray, place: ndarray, most: int) -> ndarray:
    """Rows ``(M,)`` by rising ``key`` and falling ``score``, ties by ``place``; at most so many of each key."""
    order = np.lexsort((place, -score, key))
    starts, lengths = group_bounds(key[order])
    return order[np.arange(len(order)) - np.repeat(starts, lengths) < most]


def chunks(lengths: ndarray, budget: int, spread: float) -> Iterator[ndarray]:
    """Yield indices of groups, each chunk in order of length.

    Args:
        lengths: Boxes of each group.
        budget: Padded pairs of boxes of a chunk, at most. A group that alone has more is a chunk of its own.
        spread: The longest group of a chunk has at most so many times the boxes of the shortest.
    """
    order = np.argsort(lengths, kind='stable')
    ordered = lengths[order]
    if len(order) and len(order) * int(ordered[-1]) ** 2 <= SMALL:
        yield order
        return
    start = 0
    while start < len(order):
        shortest = int(ordered[start])
        stop = int(np.searchsorted(ordered, int(shortest * spread), side='right'))
        longest = int(ordered[stop - 1])
        step = max(1, budget // longest**2)
        for begin in range(start, stop, step):
            yield order[begin : min(begin + step, stop)]
        start = stop


def padded(starts: ndarray, lengths: ndarray) -> tuple[ndarray, ndarray]:
    """Rows of groups as a table.

    Returns:
        ``(G, L)`` rows, the last of a group repeated as padding; ``(G, L)`` bool, True where there is a box.
    """
    steps = np.arange(lengths.max(initial=0))
    rows = starts[:, None] + np.minimum(steps, np.maximum(lengths, 1)[:, None] - 1)
    return rows, steps < lengths[:, None]
