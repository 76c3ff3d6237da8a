"""One random crop in two sizes: a picture for the encoder, one for the network that makes the target.

Sec. 4.1 of arXiv 2202.03026 and the authors' code, which takes the crop of timm and BEiT.
"""

from __future__ import annotations

import math

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from .sizes import pair

FILTERS = {name: Image.Resampling[name.upper()] for name in ('bilinear', 'bicubic', 'lanczos', 'hamming')}
ATTEMPTS = 10  # authors' code


@TRANSFORMS.register_module()
class TwoViewRandomResizedCrop(BaseTransform):
    """Crop at random and resize the crop to two sizes, with the filters of PIL, which do not alias.

    The host's ``RandomResizedCropAndInterpolationWithTwoPic`` never takes the last row and column of a picture,
    resizes without antialiasing, which changes 7 % of the tokens of DALL-E, and wants sizes as (w, h).

    **Modified keys:** ``img``, ``(H, W, C)`` or ``(H, W)`` of uint8, becomes the list of both views, ``(h, w, C)``.

    Args:
        size: Of the first view, in pixels: ``(h, w)``, or one number.
        second_size: Of the second view.
        scale: Smallest and largest area of the crop, as a part of the picture's.
        ratio: Smallest and largest width over height of the crop.
        interpolation: Filter of the first view: ``'bilinear'``, ``'bicubic'``, ``'lanczos'`` or ``'hamming'``.
        second_interpolation: Filter of the second view; ``'lanczos'`` for the tokens of DALL-E.

    Raises:
        ValueError: A filter is unknown, or a range is not (least, most).
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        second_size: int | tuple[int, int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = 'bicubic',
        second_interpolation: str = 'lanczos',
    ) -> None:
        for name in (interpolation, second_interpolation):
            if name not in FILTERS:
                raise ValueError(f'interpolation {name!r}; one of {sorted(FILTERS)}')
        if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
            raise ValueError(f'scale={scale} and ratio={ratio} are (least, most), parts of the area at most 1')
        self.views = ((pair(size), interpolation), (pair(second_size), second_interpolation))
        self.scale, self.ratio = scale, ratio

    def draw_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the crop ``(top, left, height, width)`` in a picture of ``height`` times ``width`` pixels."""
        uniform, randint = np.random.uniform, np.random.randint
        for _ in range(ATTEMPTS):
            area = uniform(*self.scale) * height * width
            aspect = math.exp(uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return randint(height - h + 1), randint(width - w + 1), h, w
        # The largest crop in the middle whose shape is allowed.
        w, h = min(width, round(height * self.ratio[1])), min(height, round(width / self.ratio[0]))
        return (height - h) // 2, (width - w) // 2, h, w

    def transform(self, results: dict) -> dict:
        """Replace ``img`` by two views of one crop."""
        image = results['img']
        top, left, height, width = self.draw_box(*image.shape[:2])
        crop = Image.fromarray(image).crop((left, top, left + width, top + height))
        results['img'] = [np.array(crop.resize(size[::-1], FILTERS[name])) for size, name in self.views]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(views={self.views}, scale={self.scale}, ratio={self.ratio})'
