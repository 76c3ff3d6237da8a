"""Reading images as people have them, sizes that a model takes, and strips of pictures with labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

RESIZES = ('shortest', 'stretch', 'none')


def read_image(path: str | Path) -> Image.Image:
    """An image in RGB: turned as its EXIF says, CMYK and grey converted, transparency laid on white.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It cannot be read as an image, or is broken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no image {path}')
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
                image = image.convert('RGBA')
                return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
            if image.mode.startswith('I'):  # 16 bits; convert() would clip and not scale
                image = Image.fromarray(
                    (np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
                )
            return image.convert('RGB')
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path} cannot be read as an image: {error}') from error


def fit(image: Image.Image, size: int, multiple: int, resize: str = 'shortest') -> Image.Image:
    """Resize an image to sides that the model takes.

    Args:
        image: In RGB.
        size: Side in pixels that the model was trained on.
        multiple: Of which both sides must be.
        resize: ``'shortest'`` brings the shorter side to ``size`` and keeps the shape up to rounding, ``'stretch'``
            makes a square of ``size``, ``'none'`` only rounds the sides.

    Raises:
        ValueError: Another ``resize``, or a size below 1.
    """
    if size < 1:
        raise ValueError(f'size must be at least 1 pixel, got {size}')
    if resize not in RESIZES:
        raise ValueError(f'resize must be one of {RESIZES}, got {resize!r}')
    sides = (size, size) if resize == 'stretch' else image.size
    if resize == 'shortest':
        sides = tuple(side * size / min(image.size) for side in image.size)
    sides = tuple(max(multiple, round(side / multiple) * multiple) for side in sides)
    return image if sides == image.size else image.resize(sides, Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as ``(3, H, W)`` in [-1, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32).copy()).permute(2, 0, 1) / 127.5 - 1


def to_image(tensor: Tensor) -> Image.Image:
    """``(3, H, W)`` in [-1, 1] as an RGB image."""
    pixels = ((tensor.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def as_saved(picture: Tensor) -> Tensor:
    """A picture ``(3, H, W)`` in [-1, 1] as it comes back from a file: 256 steps."""
    return ((picture.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def eta_text(eta: float) -> str:
    """A strength as it stands in names of files: two digits after the point, more where needed."""
    text = f'{eta:.2f}'
    return text if float(text) == eta else f'{eta:g}'


def strip(pictures: Sequence[tuple[str, Image.Image]], height: int = 192) -> Image.Image:
    """Pictures beside each other, each with its label above; small ones are enlarged by a whole factor.

    Args:
        pictures: Label and picture; all of one size.
        height: Pictures lower than this are enlarged, without smoothing, to at most this.
    """
    scale = max(1, height // pictures[0][1].height)
    font, gap = ImageFont.load_default(13), 6
    widths = [
        max(picture.width * scale, math.ceil(max(font.getlength(line) for line in label.split('\n'))))
        for label, picture in pictures
    ]
    top = 17 * max(label.count('\n') + 1 for label, _ in pictures) + 4
    tall = max(picture.height for _, picture in pictures) * scale
    sheet = Image.new('RGB', (sum(widths) + gap * (len(widths) + 1), top + tall + gap), 'white')
    draw, left = ImageDraw.Draw(sheet), gap
    for (label, picture), width in zip(pictures, widths, strict=True):
        draw.multiline_text((left, 2), label, 'black', font)
        large = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        sheet.paste(large, (left, top))
        left += width + gap
    return sheet
