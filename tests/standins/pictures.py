"""Pictures with something in them, and boxes and polygons that fit them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def paint(
    rng: np.random.Generator, size: tuple[int, int], polygons: Sequence[Sequence[float]] = (), mode: str = 'RGB'
) -> Image.Image:
    """Draw filled polygons on a soft background.

    Args:
        rng: Where colors come from.
        size: Width and height in pixels.
        polygons: ``x1, y1, x2, y2, ...`` in pixels each.
        mode: Pillow's: ``'RGB'``, ``'L'``, ``'1'``, ``'CMYK'``.
    """
    coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for polygon in polygons:
        draw.polygon(list(polygon), fill=tuple(rng.integers(0, 255, 3).tolist()))
    return picture.convert(mode)


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def random_boxes(rng: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    """Return ``(count, 4)`` boxes x1, y1, x2, y2 in whole pixels, each side from a quarter to a half of the picture."""
    sides = np.array(size)
    lengths = (rng.uniform(0.25, 0.5, (count, 2)) * sides).round()
    corners = (rng.uniform(0, 1, (count, 2)) * (sides - lengths)).round()
    return np.concatenate([corners, corners + lengths], axis=1)


def corners_of(box: Sequence[float]) -> list[float]:
    """Return the polygon of a box x1, y1, x2, y2: eight numbers, clockwise from its upper left corner."""
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def random_oriented(rng: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    """Return ``(count, 5)`` rotated boxes: center x, y, width, height in pixels, angle in radians; all inside."""
    side = min(size)
    lengths = rng.uniform([0.2, 0.08], [0.4, 0.2], (count, 2)) * side
    centers = rng.uniform(0.25, 0.75, (count, 2)) * np.array(size)
    angles = rng.uniform(-np.pi / 2, np.pi / 2, (count, 1))
    return np.concatenate([centers, lengths, angles], axis=1)


def oriented_corners(box: Sequence[float]) -> list[float]:
    """Return the polygon of a rotated box x, y, w, h, angle: eight numbers."""
    x, y, w, h, angle = map(float, box)
    cos, sin = np.cos(angle), np.sin(angle)
    offsets = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 @ np.array([[cos, sin], [-sin, cos]])
    return (offsets + [x, y]).ravel().round(1).tolist()
