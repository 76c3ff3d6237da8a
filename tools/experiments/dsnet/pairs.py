"""Task two, made for the mechanism: two scans of digits, far apart with clutter between; are they the same digit?

A strip of 16 slots of 8 x 8 pixels has a scan in one of the first two slots and one in one of the last two. Slots
between hold clutter: the pixels of a scan in disorder. All have the same mean, so a view as coarse as a slot tells
neither digits nor clutter apart, and nothing within 80 pixels of one scan tells of the other. Three digits are enough:
what is asked is whether a network can relate, not how many it can read.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor

SIDE, SLOTS, ENDS, CLUTTER = 8, 16, 2, 4
KINDS, TRAINING_SCANS = 3, 357


def load_scans(training: bool) -> tuple[Tensor, Tensor]:
    """Return scans ``(n, 8, 8)`` with a mean of 1, and their digits ``(n)``, of the first 357 or of the other 180."""
    digits = load_digits(n_class=KINDS)
    chosen = slice(None, TRAINING_SCANS) if training else slice(TRAINING_SCANS, None)
    scans, kinds = torch.from_numpy(digits.images[chosen]).float(), torch.from_numpy(digits.target[chosen])
    return scans / scans.mean((1, 2), keepdim=True), kinds


def make_pairs(number: int, training: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Draw pairs, half of them of equal digits.

    Args:
        number: Of pairs.
        training: Which scans, see `load_scans`.
        seed: Of the choice.

    Returns:
        Strips ``(number, 1, 8, 128)``; labels ``(number)``, 1 for equal digits.
    """
    scans, kinds = load_scans(training)
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> Tensor:
        return torch.randint(high, (number,), generator=generator)

    def disorder(size: int) -> Tensor:
        return torch.rand(number, size, generator=generator).argsort(1)

    labels, strip = torch.arange(number) % 2, torch.arange(number)
    first = draw(len(scans))
    fitting = (kinds[first][:, None] == kinds) == labels[:, None].bool()
    second = torch.multinomial(fitting.float(), 1, generator=generator)[:, 0]
    slots = torch.zeros(number, SLOTS, SIDE, SIDE)
    slots[strip, draw(ENDS)] = scans[first]
    slots[strip, SLOTS - 1 - draw(ENDS)] = scans[second]
    for place in ENDS + disorder(SLOTS - 2 * ENDS)[:, :CLUTTER].T:
        pixels = scans[draw(len(scans))].flatten(1)
        slots[strip, place] = pixels.gather(1, disorder(SIDE * SIDE)).unflatten(1, (SIDE, SIDE))
    return slots.transpose(1, 2).flatten(2).unsqueeze(1), labels
