"""Sizes of images, patches and grids, rows before columns everywhere; and of the encoders."""

from __future__ import annotations


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return ``(h, w)``, of one number a square; always a tuple, which the host's ``to_2tuple`` makes of no list."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def vit_sizes(dims: int, layers: int, heads: int) -> dict[str, int]:
    """Return an ``arch`` dict with an FFN of four times the width."""
    return dict(embed_dims=dims, num_layers=layers, num_heads=heads, feedforward_channels=4 * dims)


ARCHS = {
    **dict.fromkeys(['ti', 'tiny'], vit_sizes(192, 12, heads=12)),
    **dict.fromkeys(['s', 'small'], vit_sizes(384, 12, heads=12)),
    **dict.fromkeys(['b', 'base'], vit_sizes(768, 12, heads=12)),
    **dict.fromkeys(['l', 'large'], vit_sizes(1024, 24, heads=16)),
}


def arch_of(arch: str | dict) -> dict[str, int]:
    """Return the ``arch`` dict of a name in ``ARCHS``, in any case, or the dict itself.

    Raises:
        ValueError: There is no such name.
    """
    if isinstance(arch, str) and arch.lower() not in ARCHS:
        raise ValueError(f'unknown arch {arch!r}; one of {sorted(ARCHS)}, or a dict')
    return ARCHS[arch.lower()] if isinstance(arch, str) else arch
