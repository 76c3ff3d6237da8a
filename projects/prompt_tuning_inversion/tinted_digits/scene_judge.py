"""Judge of edited scenes: did what the prompt names change, and nothing else?"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..evaluation.nearness import psnr
from .judge import DigitJudge, color_of, to_pixels
from .scenes import Scene


def strokes_of(pixels: np.ndarray) -> np.ndarray:
    """What is strongly colored in ``(H, W, 3)``, ``(H, W)`` in [0, 1]: the digits, as the photos are pale."""
    return (pixels.max(-1) - pixels.min(-1)) ** 2


class SceneJudge:
    """Tells an edit from the perfect one by the names of its colors, its digits, and the pixels that should stay."""

    def __init__(self) -> None:
        self.read = DigitJudge()

    def __call__(self, edit: Tensor, before: Tensor, wanted: Scene, place: int) -> dict[str, bool | float]:
        """Judge an edit of a scene.

        Args:
            edit: ``(3, H, W)`` in [-1, 1].
            before: The scene before it, alike; as the autoencoder shows it, if the edit comes out of one.
            wanted: What the edit should show.
            place: Of the digit that gets another color, 0 for the left one and 1 for the right one.

        Returns:
            ``color``: it has the color that was asked for, where it was drawn; ``digit``: it still reads as the same
            digit; ``other``: the other one reads as the same digit in the same color; ``success``: all of them;
            ``background``: PSNR in dB of all but the digit that gets another color, at most 100.
        """
        halves = np.split(to_pixels(edit), 2, axis=1)
        inks = [half * (drawing[..., None] > 127) for half, drawing in zip(halves, wanted.drawings, strict=True)]
        colors = [color_of(ink) == color for ink, color in zip(inks, wanted.colors, strict=True)]
        digits = [bool(kept) for kept in self.read([strokes_of(half) for half in halves]) == wanted.digits]
        other = colors[1 - place] and digits[1 - place]
        return dict(
            color=colors[place],
            digit=digits[place],
            other=other,
            success=colors[place] and digits[place] and other,
            background=psnr(edit, before, wanted.mask(place)),
        )
