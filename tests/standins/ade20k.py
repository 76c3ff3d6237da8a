"""ADE20K of the scene parsing challenge: 0 is "other", classes are 1 to 150."""

from pathlib import Path

import numpy as np
from PIL import Image

from .pictures import paint, save


def write(root: Path) -> None:
    """Write ``images/{training,validation}/ADE_*.jpg`` and ``annotations/{training,validation}/ADE_*.png``."""
    rng = np.random.default_rng(0)
    for part, short, count in (('training', 'train', 8), ('validation', 'val', 3)):
        for i in range(1, count + 1):
            size = ((96, 64), (64, 80), (72, 72))[i % 3]
            coarse = rng.integers(0, 151, (3, 4), dtype=np.uint8)
            labels = Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)
            name = f'ADE_{short}_{i:08d}'
            save(paint(rng, size), root / f'images/{part}/{name}.jpg')
            save(labels, root / f'annotations/{part}/{name}.png')
