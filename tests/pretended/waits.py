"""Where the CPU waits for a GPU, or copies from pageable memory to it: counted by the line that asks for it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy
import torch

# What lies between a line of a model and the operation: torch, this package, and containers that hand an index on.
BETWEEN = (
    *(f'{Path(module.__file__).parent}/' for module in (torch, numpy)),
    f'{Path(__file__).parent}/',
    '/mmengine/structures/',
    '/mmengine/logging/',
    '/mmengine/model/base_model/data_preprocessor.py',
    '/mmdet/structures/bbox/',
    '/mmrotate/structures/bbox/',
)


class Wait(NamedTuple):
    """One place.

    Attributes:
        kind: ``'read'``, a number is asked for; ``'size'``, the shape of the result depends on values; ``'to cpu'`` or
            ``'to gpu'``, a copy.
        file: Path of the source.
        line: Its line.
        function: Its function.
    """

    kind: str
    file: str
    line: int
    function: str


class Waits:
    """Counts, for the whole process."""

    def __init__(self) -> None:
        self.counts: Counter[Wait] = Counter()

    def add(self, kind: str) -> None:
        """Count one, at the innermost line that is not in between."""
        frame = sys._getframe(1)
        while frame.f_back is not None and any(part in frame.f_code.co_filename for part in BETWEEN):
            frame = frame.f_back
        self.counts[Wait(kind, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)] += 1

    def take(self) -> Counter[Wait]:
        """Return the counts and start anew."""
        taken, self.counts = self.counts, Counter()
        return taken


WAITS = Waits()
