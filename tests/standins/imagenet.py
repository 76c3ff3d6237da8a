"""ImageNet-1k: a folder a class, ``train/n01440764/n01440764_10026.JPEG``."""

from pathlib import Path

import numpy as np

from .pictures import paint, save

CLASSES = [f'n{1440764 + 97 * i:08d}' for i in range(1000)]


def write(root: Path) -> None:
    """Write 1000 folders below ``train`` and ``val``, with pictures in the first ones only.

    Pictures have several sizes; as in the published files one is gray, and one is CMYK.
    """
    rng = np.random.default_rng(0)
    for part, count in (('train', 4), ('val', 3)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
        for i in range(count):
            mode = {1: 'L', 2: 'CMYK'}.get(i, 'RGB') if part == 'train' else 'RGB'
            file = f'{CLASSES[i]}_{10026 + i}.JPEG' if part == 'train' else f'ILSVRC2012_val_{i + 1:08d}.JPEG'
            picture = paint(rng, ((80, 60), (60, 80), (50, 50))[i % 3], mode=mode)
            save(picture, root / part / CLASSES[i] / file)
