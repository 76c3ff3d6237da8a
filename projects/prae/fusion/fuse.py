"""From the detectors' tables to one: refine, rank, merge, cut (the PRAE stage of arXiv 2105.03139)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from ..boxes.groups import chunks, group_bounds, padded
from ..boxes.tables import Detections
from ..calibration.detectors import Calibration
from .heads import CHUNKS, HEADS, Chunk
from .options import KEEPING, FuseConfig
from .suppression import has_torchvision, suppress

TIE = 1e-9  # how far apart, at most, boxes of equal probability are written


def fuse(
    tables: Sequence[Detections],
    calib: Calibration,
    cfg: FuseConfig | None = None,
    sizes: ndarray | None = None,
) -> Detections:
    """Fuse the boxes of all detectors, all images at once.

    Boxes are ranked by refined score; equal ones by detector, raw score, place in the table. So ties in one image do
    not depend on other images. The heads that keep old boxes write this order into the last digits of the score (below
    1e-9 times the number of detectors): the evaluation of many images has nothing else to go by.

    Args:
        tables: One for each detector of ``calib``, in its order, cleaned (see :func:`boxes.tables.clean`). ``category``
            indexes ``calib.classes``.
        calib: Curves.
        cfg: Options; None for the defaults.
        sizes: ``(I, 2)``, width and height of the images; needed by ``clip_boxes``, which leaves zeros alone.

    Returns:
        By image, then by falling score.

    Raises:
        ValueError: If the number of tables or of weights is not that of the detectors; if a head that merges gets
            masks or rotated boxes; if there are scores that are NaN or, at preset ``official``, outside [0, 1].
    """
    cfg = cfg or FuseConfig()
    _check(tables, calib, cfg)
    flat = _flatten(tables, calib, cfg, sizes)
    key = flat['image'] * len(calib.classes) + flat['category']
    order = np.lexsort((-flat['score'], key))  # stable, so ties stay in the order of _flatten
    flat, key = {name: column[order] for name, column in flat.items()}, key[order]
    if cfg.head == 'nms' and flat['box'].shape[1] == 4 and has_torchvision():
        first = suppress(flat['box'], flat['image'], flat['category'], cfg.iou_thr)
        box, score = flat['box'][first], flat['score'][first] / _weights(cfg, len(tables)).max()
    else:
        first, box, score = _merge(flat, key, calib, cfg)
    back = order[first].argsort()
    first, box, score = (column[back] for column in (first, box, score))
    return _finish(flat, first, box, score, tables, cfg)


def _check(tables: Sequence[Detections], calib: Calibration, cfg: FuseConfig) -> None:
    num = len(calib.detectors)
    if len(tables) != num:
        raise ValueError(f'{len(tables)} tables of boxes for {num} detectors {list(calib.names)}')
    if cfg.weights is not None and len(cfg.weights) != num:
        raise ValueError(f'{len(cfg.weights)} weights for {num} detectors {list(calib.names)}')
    if len({table.box.shape[1] for table in tables if len(table)}) > 1:
        raise ValueError('some detectors have upright boxes and some have rotated ones')
    if any(len(table) and table.box.shape[1] == 5 for table in tables) and cfg.head not in KEEPING:
        raise ValueError(f"rotated boxes cannot be merged; use the head 'nms' or 'soft_nms', not {cfg.head!r}")
    if any(table.mask is not None for table in tables) and cfg.head not in KEEPING:
        raise ValueError(f"masks cannot be merged; use the head 'nms' or 'soft_nms', not {cfg.head!r}, or drop them")


def _weights(cfg: FuseConfig, num: int) -> ndarray:
    return np.ones(num) if cfg.weights is None else np.asarray(cfg.weights, dtype=np.float64)


def _flatten(
    tables: Sequence[Detections], calib: Calibration, cfg: FuseConfig, sizes: ndarray | None
) -> dict[str, ndarray]:
    """Join the tables, with refined scores: by detector, raw score and place in the table, the order of ties.

    Boxes that are dropped are gone.
    """
    weights = _weights(cfg, len(tables))
    columns: dict[str, list[ndarray]] = {}
    width = max((table.box.shape[1] for table in tables if len(table)), default=4)
    for index, table in enumerate(tables):
        refined = calib.refine(index, table.score, table.category)
        with np.errstate(invalid='ignore'):
            row = np.flatnonzero(refined * weights[index] >= cfg.skip_below)  # NaN is dropped
        row = row[np.argsort(-table.score[row], kind='stable')]
        part = dict(
            image=table.image[row],
            category=table.category[row],
            score=refined[row] * weights[index],
            raw=table.score[row],
            box=table.box[row].reshape(-1, width),
            detector=np.full(len(row), index),
            row=row,
            weight=np.full(len(row), weights[index]),
        )
        for name, column in part.items():
            columns.setdefault(name, []).append(column)
    flat = {name: np.concatenate(parts) for name, parts in columns.items()}
    if cfg.clip_boxes and sizes is not None and width == 4:
        limit = sizes[flat['image']]
        flat['box'][:, 2:] = np.where(limit > 0, np.minimum(flat['box'][:, 2:], limit), flat['box'][:, 2:])
    if cfg.reset_weights:
        partly = _fired(flat)[0][flat['image']] < len(tables)
        flat['score'] = np.where(partly, flat['score'] / flat['weight'], flat['score'])
        flat['weight'] = np.where(partly, 1.0, flat['weight'])
    return flat


def _fired(flat: dict[str, ndarray]) -> tuple[ndarray, ndarray]:
    """Number of detectors that have a box in each image, ``(I,)``, and the images' sorted pairs with detectors."""
    pairs = np.unique(np.stack([flat['image'], flat['detector']], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=1), pairs


def _merge(
    flat: dict[str, ndarray], key: ndarray, calib: Calibration, cfg: FuseConfig
) -> tuple[ndarray, ndarray, ndarray]:
    """Run the head on all groups.

    Returns:
        ``(M,)`` row of the box, or of the best of its members; ``(M, 4)``; ``(M,)`` scores.
    """
    starts, lengths = group_bounds(key)
    number, total = _relative_to(flat, starts, calib, cfg)
    weights = _weights(cfg, len(calib.detectors))
    parts: list[tuple[ndarray, ndarray, ndarray]] = [
        (np.zeros(0, dtype=np.int64), np.zeros((0, flat['box'].shape[1])), np.zeros(0))
    ]
    for group in chunks(lengths, *CHUNKS.get(cfg.head, CHUNKS['wbf'])):
        rows, valid = padded(starts[group], lengths[group])
        x = Chunk(
            flat['box'][rows],
            np.where(valid, flat['score'][rows], 0.0),
            flat['weight'][rows],
            flat['detector'][rows],
            valid,
            number[group],
            total[group],
            weights,
        )
        out = HEADS[cfg.head](x, cfg)
        first = np.take_along_axis(rows, out.first, axis=1)
        parts.append((first[out.keep], out.box[out.keep], out.score[out.keep]))
    first, box, score = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, box, score


def _relative_to(
    flat: dict[str, ndarray], starts: ndarray, calib: Calibration, cfg: FuseConfig
) -> tuple[ndarray, ndarray]:
    """Number and sum of weights of the detectors that the fused scores of each group are relative to."""
    weights = _weights(cfg, len(calib.detectors))
    knows = calib.knows() if cfg.known_only else np.ones((len(weights), len(calib.classes)), dtype=bool)
    knows[:, ~knows.any(0)] = True  # a class that was in no fit box: nothing is known, so all count
    category, image = flat['category'][starts], flat['image'][starts]
    number, total = knows.sum(0)[category], (knows * weights[:, None]).sum(0)[category]
    if cfg.reset_weights and len(starts):
        fired = _fired(flat)[0][image]
        partly = fired < len(weights)
        number, total = np.where(partly, fired, number), np.where(partly, fired, total)
    return number, total.astype(np.float64)


def _separate_ties(score: ndarray, detector: ndarray, raw: ndarray, num: int) -> ndarray:
    """Write the rank of equal scores, by detector and then by raw score, into the last digits; stays in [0, 1]."""
    rising = 0.5 + 0.5 * raw / (1 + np.abs(raw))  # of any real score, in (0, 1)
    return score * (1 - num * TIE) + TIE * (num - 1 - detector + rising)


def _finish(
    flat: dict[str, ndarray],
    first: ndarray,
    box: ndarray,
    score: ndarray,
    tables: Sequence[Detections],
    cfg: FuseConfig,
) -> Detections:
    """Sort by image and score, ties as they come; cut each image, and look up what belongs to the kept boxes."""
    image = flat['image'][first]
    detector, raw = flat['detector'][first], flat['raw'][first]
    order = np.lexsort((-score, image))
    if cfg.head in KEEPING:
        score = _separate_ties(score, detector, raw, len(tables))
    starts, lengths = group_bounds(image[order])
    rank = np.arange(len(order)) - np.repeat(starts, lengths)
    order = order[rank < cfg.max_per_img]
    first = first[order]
    source = np.stack([flat['detector'][first], flat['row'][first]], axis=1)
    mask = None
    if any(table.mask is not None for table in tables):
        mask = np.empty(len(first), dtype=object)
        for place, (detector, row) in enumerate(source):
            mask[place] = None if tables[detector].mask is None else tables[detector].mask[row]
    if cfg.head not in KEEPING:
        source = np.full_like(source, -1)
    return Detections(image[order], flat['category'][first], score[order], box[order], mask, source)
