"""Task two, made for the mechanism: two scans of digits, far apart on one canvas; are they the same digit?"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor

SIDE, WIDTH = 8, 40
TRAINING_SCANS = 1200


def make_pairs(number: int, training: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Draw pairs, half of them of equal digits.

    Args:
        number: Of pairs.
        training: From the first 1200 scans, else from the other 597.
        seed: Of the choice.

    Returns:
        Canvases ``(number, 1, 8, 40)`` from 0 to 1, one scan of 8 x 8 at each end; labels ``(number)``, 1 for equal
        digits.
    """
    digits = load_digits()
    chosen = slice(None, TRAINING_SCANS) if training else slice(TRAINING_SCANS, None)
    scans = torch.from_numpy(digits.images[chosen]).float() / 16
    kinds = torch.from_numpy(digits.target[chosen])
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    canvases, labels = torch.zeros(number, 1, SIDE, WIDTH), torch.arange(number) % 2
    for canvas, label in zip(canvases, labels.tolist(), strict=True):
        first = draw(len(scans))
        candidates = ((kinds == kinds[first]) == bool(label)).nonzero()[:, 0]
        canvas[0, :, :SIDE] = scans[first]
        canvas[0, :, -SIDE:] = scans[candidates[draw(len(candidates))]]
    return canvases, labels
