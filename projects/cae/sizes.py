"""Sizes of images, patches and grids: rows before columns, everywhere."""

from __future__ import annotations


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return ``(h, w)``, of one number a square."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
