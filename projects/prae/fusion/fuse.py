"""From the detectors' tables to one: refine, rank, merge, cut (the PRAE stage of arXiv 2105.03139)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy import ndarray

from ..boxes.groups import chunks, group_bounds, padded, strongest
from ..boxes.tables import Detections
from ..calibration.detectors import Calibration
from .heads import CHUNKS, HEADS, Chunk
from .masks import vote
from .options import KEEPING, FuseConfig
from .suppression import has_torchvision, suppress

RAW = 1e-3  # share of a score that the curve after the fusion leaves: its steps would bring close ones too close


def fuse(
    tables: Sequence[Detections],
    calib: Calibration,
    cfg: FuseConfig | None = None,
    sizes: ndarray | None = None,
) -> Detections:
    """Fuse the boxes of all detectors, all images at once.

    Boxes are ranked by refined score; equal ones by detector and place in the table. So ties in one image do not depend
    on other images.

    Args:
        tables: One for each detector of ``calib``, in its order, cleaned (see :func:`boxes.tables.clean`). ``category``
            indexes ``calib.classes``.
        calib: Curves.
        cfg: Options; None for those of ``calib``. With them the scores that come out go through its curve ``after``;
            with others, but for ``max_per_img``, they do not, with a warning.
        sizes: ``(I, 2)``, width and height of the images; needed by ``clip_boxes``, which leaves zeros alone.

    Returns:
        By image, then by falling score.

    Raises:
        ValueError: If the number of tables or of weights is not that of the detectors; if some boxes are upright and
            some rotated; if there are scores that are NaN or, at preset ``official``, outside [0, 1].
    """
    cfg = cfg or calib.fusion
    _check(tables, calib, cfg)
    flat = _flatten(tables, calib, cfg, sizes)
    key = flat['image'] * len(calib.classes) + flat['category']
    order = np.lexsort((-flat['score'], key))  # stable, so ties stay in the order of _flatten
    flat, key = {name: column[order] for name, column in flat.items()}, key[order]
    if cfg.head == 'nms' and flat['box'].shape[1] == 4 and has_torchvision():
        first = suppress(flat['box'], flat['image'], flat['category'], cfg.iou_thr)
        box, score, into = flat['box'][first], flat['score'][first] / _weights(cfg.weights, len(tables)).max(), None
    else:
        first, box, score, into = _merge(flat, key, calib, cfg)
    if calib.after is not None:
        if replace(cfg, max_per_img=calib.fusion.max_per_img) == calib.fusion:
            score = (1 - RAW) * calib.after(score) + RAW * score
        else:
            warnings.warn(
                'the curve of the fused scores was fitted with other options of the fusion, so it is left out: the '
                'ranking is the fusion’s, but scores are not calibrated',
                stacklevel=2,
            )
    chosen = strongest(flat['image'][first], score, order[first], cfg.max_per_img)
    mask = None
    if any(table.mask is not None for table in tables):
        mask = _masks(flat, tables, first, into, chosen)
    first, box, score = first[chosen], box[chosen], score[chosen]
    source = np.stack([flat['detector'][first], flat['row'][first]], axis=1)
    if cfg.head not in KEEPING:
        source = np.full_like(source, -1)
    return Detections(flat['image'][first], flat['category'][first], score, box, mask, source)


def _check(tables: Sequence[Detections], calib: Calibration, cfg: FuseConfig) -> None:
    num = len(calib.detectors)
    if len(tables) != num:
        raise ValueError(f'{len(tables)} tables of boxes for {num} detectors {list(calib.names)}')
    for weights in (cfg.weights, cfg.corner_weights):
        if weights is not None and len(weights) != num:
            raise ValueError(f'{len(weights)} weights for {num} detectors {list(calib.names)}')
    if len({table.box.shape[1] for table in tables if len(table)}) > 1:
        raise ValueError('some detectors have upright boxes and some have rotated ones')


def _weights(weights: Sequence[float] | None, num: int) -> ndarray:
    return np.ones(num) if weights is None else np.asarray(weights, dtype=np.float64)


def _flatten(
    tables: Sequence[Detections], calib: Calibration, cfg: FuseConfig, sizes: ndarray | None
) -> dict[str, ndarray]:
    """Join the tables, with refined scores: by detector and place in the table, the order of ties.

    Boxes that are dropped are gone.
    """
    weights = _weights(cfg.weights, len(tables))
    corner_weights = weights if cfg.corner_weights is None else _weights(cfg.corner_weights, len(tables))
    columns: dict[str, list[ndarray]] = {}
    width = max((table.box.shape[1] for table in tables if len(table)), default=4)
    for index, table in enumerate(tables):
        refined = calib.refine(index, table.score, table.category)
        with np.errstate(invalid='ignore'):
            row = np.flatnonzero(refined >= cfg.skip_below)  # NaN is dropped
        part = dict(
            image=table.image[row],
            category=table.category[row],
            score=refined[row] * weights[index],
            pull=refined[row] * corner_weights[index],
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
        flat['pull'] = np.where(partly, flat['score'], flat['pull'])
        flat['weight'] = np.where(partly, 1.0, flat['weight'])
    return flat


def _fired(flat: dict[str, ndarray]) -> tuple[ndarray, ndarray]:
    """Number of detectors that have a box in each image, ``(I,)``, and the images' sorted pairs with detectors."""
    pairs = np.unique(np.stack([flat['image'], flat['detector']], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=1), pairs


def _merge(
    flat: dict[str, ndarray], key: ndarray, calib: Calibration, cfg: FuseConfig
) -> tuple[ndarray, ndarray, ndarray, ndarray | None]:
    """Run the head on all groups.

    Returns:
        ``(N,)`` row of each output box, or of the best of its members; ``(N, 4)`` or 5; ``(N,)`` scores; ``(M,)`` into
        which output box each row went, -1 for none, None if boxes are kept, not merged.
    """
    starts, lengths = group_bounds(key)
    number, total = _relative_to(flat, starts, calib, cfg)
    weights = _weights(cfg.weights, len(calib.detectors))
    parts: list[tuple[ndarray, ndarray, ndarray]] = [
        (np.zeros(0, dtype=np.int64), np.zeros((0, flat['box'].shape[1])), np.zeros(0))
    ]
    into = None if cfg.head in KEEPING else np.full(len(key), -1)
    count = 0
    for group in chunks(lengths, *CHUNKS.get(cfg.head, CHUNKS['wbf'])):
        rows, valid = padded(starts[group], lengths[group])
        columns = (flat[name][rows] for name in ('pull', 'weight', 'detector'))
        score = np.where(valid, flat['score'][rows], 0.0)
        x = Chunk(flat['box'][rows], score, *columns, valid, number[group], total[group], weights)
        out = HEADS[cfg.head](x, cfg)
        first = np.take_along_axis(rows, out.first, axis=1)
        parts.append((first[out.keep], out.box[out.keep], out.score[out.keep]))
        if into is not None:
            place = np.full(out.keep.shape, -1)
            place[out.keep] = np.arange(count, count + out.keep.sum())
            into[rows[valid]] = np.take_along_axis(place, np.maximum(out.own, 0), axis=1)[valid]
        count += int(out.keep.sum())
    return *(np.concatenate(column) for column in zip(*parts, strict=True)), into


def _relative_to(
    flat: dict[str, ndarray], starts: ndarray, calib: Calibration, cfg: FuseConfig
) -> tuple[ndarray, ndarray]:
    """Number and sum of weights of the detectors that the fused scores of each group are relative to."""
    weights = _weights(cfg.weights, len(calib.detectors))
    knows = calib.knows() if cfg.known_only else np.ones((len(weights), len(calib.classes)), dtype=bool)
    knows[:, ~knows.any(0)] = True  # a class that was in no fit box: nothing is known, so all count
    category, image = flat['category'][starts], flat['image'][starts]
    number, total = knows.sum(0)[category], (knows * weights[:, None]).sum(0)[category]
    if cfg.reset_weights and len(starts):
        fired = _fired(flat)[0][image]
        partly = fired < len(weights)
        number, total = np.where(partly, fired, number), np.where(partly, fired, total)
    return number, total.astype(np.float64)


def _masks(
    flat: dict[str, ndarray], tables: Sequence[Detections], first: ndarray, into: ndarray | None, chosen: ndarray
) -> ndarray:
    """Mask of each chosen output box, objects: the box's own, or what its members vote for; None without any."""
    mask = np.empty(len(flat['row']), dtype=object)
    for number, table in enumerate(tables):
        if table.mask is not None:
            rows = np.flatnonzero(flat['detector'] == number)
            mask[rows] = table.mask[flat['row'][rows]]
    if into is None:
        return mask[first[chosen]]
    place = np.full(len(first) + 1, -1)  # the last for boxes that went into none
    place[chosen] = np.arange(len(chosen))
    place = place[into]
    voters = np.flatnonzero((place >= 0) & np.array([m is not None for m in mask], dtype=bool))
    voters = voters[np.argsort(place[voters], kind='stable')]
    out = np.empty(len(chosen), dtype=object)
    starts, lengths = group_bounds(place[voters])
    for start, length in zip(starts, lengths, strict=True):
        rows = voters[start : start + length]
        out[place[rows[0]]] = vote(mask[rows], flat['pull'][rows])
    return out
