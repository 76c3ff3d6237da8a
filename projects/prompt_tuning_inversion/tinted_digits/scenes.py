"""Two tinted digits in front of a photo: where an edit can change the wrong thing, or too much.

Not in the paper, which edits photos with Stable Diffusion. A scene is made here, so what a perfect edit looks like is
known: the same scene with another color of one digit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import DATASETS
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from .dataset import COLORS, SIZE, TintedDigits, prompt_of, read_digits, tint

SATURATION, BRIGHTNESS = 0.35, 0.5  # of the photos, of their own: what is bright and strongly colored is a digit
BLUR = 2  # pixels by which a digit's mask is grown: the tiny autoencoder draws no sharper edge


def subdued(photo: Image.Image) -> Image.Image:
    """A photo that leaves the strong colors to the digits."""
    return ImageEnhance.Brightness(ImageEnhance.Color(photo).enhance(SATURATION)).enhance(BRIGHTNESS)


@dataclass(frozen=True)
class Scene:
    """Two digits side by side in front of a photo, ``H`` 32 and ``W`` 64 pixels.

    Attributes:
        photo: Background ``(H, W, 3)``, uint8.
        drawings: Grey digits, left and right, ``(32, 32)`` each, uint8, ink 255.
        digits: What they show.
        colors: Their names.
        seed: Of the shades of the colors.
    """

    photo: np.ndarray
    drawings: tuple[np.ndarray, np.ndarray]
    digits: tuple[int, int]
    colors: tuple[str, str]
    seed: int

    @property
    def prompt(self) -> str:
        """Such as ``a red six and a green two``, the left one first."""
        return ' and '.join(map(prompt_of, self.colors, self.digits))

    def recolored(self, place: int, color: str) -> Scene:
        """The same scene with another color of the left (0) or the right (1) digit: the perfect edit."""
        colors = list(self.colors)
        colors[place] = color
        return replace(self, colors=tuple(colors))

    def picture(self) -> Tensor:
        """``(3, H, W)`` in [-1, 1]."""
        inks = [tint(self.drawings[place], self.colors[place], 2 * self.seed + place) for place in (0, 1)]
        clear = 1 - np.concatenate(self.drawings, axis=1)[..., None] / 255
        pixels = self.photo * clear + np.concatenate(inks, axis=1)
        return torch.from_numpy(pixels.round()).permute(2, 0, 1).float() / 127.5 - 1

    def mask(self, place: int) -> Tensor:
        """Where the left (0) or the right (1) digit may change the picture: its ink and a rim, ``(H, W)``, bool."""
        layer = Image.new('L', (2 * SIZE, SIZE))
        layer.paste(Image.fromarray(self.drawings[place]), (place * SIZE, 0))
        return torch.from_numpy(np.array(layer.filter(ImageFilter.MaxFilter(2 * BLUR + 1)))) > 0


@DATASETS.register_module()
class TintedScenes(TintedDigits):
    """Pairs of tinted digits in front of photos, made pale and dark, see :class:`Scene`.

    An item depends on its index alone; it is ``dict(inputs=Tensor (3, 32, 64) in [-1, 1], prompt=str)``. The two
    digits differ, and so do their colors. In a round each drawing is used once at most, and each photo if there are
    enough.

    Args:
        split: Of the drawings: ``train`` (2,000 scenes a round, about) or ``test`` (220).
        rounds: How often the drawings are paired anew.
        **kwargs: Of mmengine's ``BaseDataset``; the photos are all JPEG files under ``data_prefix['img_path']``.
    """

    def __init__(self, split: str = 'train', rounds: int = 1, **kwargs) -> None:
        self.rounds = rounds
        super().__init__(split=split, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One dict a scene: numbers of its drawings and of its photo, its colors and its seed.

        Raises:
            FileNotFoundError: There is no photo.
        """
        folder = self.data_prefix['img_path']
        paths = sorted(Path(folder).rglob('*.jpg'))
        if not paths:
            raise FileNotFoundError(f"no JPEG file under {folder}: name a folder of photos in data_prefix['img_path']")
        self.photos = [subdued(Image.open(path).convert('RGB')) for path in paths]
        self.grey, self.labels = read_digits(self.split)
        items = []
        for number in range(self.rounds):
            rng = np.random.default_rng(number)
            pairs = rng.permutation(len(self.grey)).reshape(-1, 2).tolist()
            photos = np.resize(rng.permutation(len(paths)), len(pairs)).tolist()
            for drawings, photo in zip(pairs, photos, strict=True):
                colors = rng.choice(list(COLORS), 2, replace=False).tolist()
                if self.labels[drawings[0]] != self.labels[drawings[1]]:
                    items.append(dict(drawings=drawings, photo=photo, colors=colors, seed=len(items)))
        return items

    def scene(self, idx: int) -> Scene:
        """A scene with all that it is made of."""
        item = self.get_data_info(idx)
        center = np.random.default_rng(item['seed']).uniform(size=2)
        return Scene(
            photo=np.array(ImageOps.fit(self.photos[item['photo']], (2 * SIZE, SIZE), centering=center)),
            drawings=tuple(self.grey[item['drawings']]),
            digits=tuple(self.labels[item['drawings']].tolist()),
            colors=tuple(item['colors']),
            seed=item['seed'],
        )

    def prepare_data(self, idx: int) -> dict:
        """Compose a scene and run the pipeline on it."""
        scene = self.scene(idx)
        return self.pipeline(dict(inputs=scene.picture(), prompt=scene.prompt))
