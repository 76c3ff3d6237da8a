"""How large a pipeline shows pictures."""

from __future__ import annotations

from collections.abc import Sequence


def first_resize(pipeline: Sequence[dict]) -> dict | None:
    """Return the first step of a pipeline that resizes, or None."""
    return next((step for step in pipeline if 'Resize' in step['type'].rpartition('.')[2]), None)


def fixed_scale(step: dict | None) -> tuple[int, int] | None:
    """Return the two sides that a step resizes to; None if it multiplies, draws them, or there is no step."""
    if step is None or step['type'].rpartition('.')[2] != 'Resize' or not step.get('scale'):
        return None
    scale = step['scale']
    return tuple(scale) if isinstance(scale, list | tuple) else (scale, scale)


def enlarged(pipeline: Sequence[dict], size: Sequence[float]) -> float | None:
    """Return by how much a pipeline enlarges a picture of a width and height; None if that is drawn."""
    step = first_resize(pipeline)
    if scale := fixed_scale(step):
        return min(max(scale) / max(size), min(scale) / min(size))
    if step is None:
        return 1.0
    if step['type'].rpartition('.')[2] != 'Resize':
        return None
    factor = step['scale_factor']
    return float(min(factor) if isinstance(factor, list | tuple) else factor)
