"""Few-shot sets: CIFAR-FS, miniImageNet, Omniglot, and folders of one's own. 25 pictures a class make an episode."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .pictures import paint, save
from .voc import write_list

PARTS = ('train', 'val', 'test')


def write_class(rng: np.random.Generator, folder: Path, names: list[str], size: tuple[int, int], mode='RGB') -> None:
    """Write the pictures of a class, all of one file: an episode asks how many there are, not what they show."""
    picture = paint(rng, size, mode=mode)
    for name in names:
        save(picture, folder / name)


def write_cifar_fs(root: Path) -> None:
    """Write ``data/<class>/<class>_s_*.png`` and ``splits/bertinetto/{train,val,test}.txt``."""
    rng = np.random.default_rng(0)
    for part in PARTS:
        classes = [f'{part}_{letter}' for letter in 'abcdef']
        for name in classes:
            write_class(rng, root / 'data' / name, [f'{name}_s_{i:06d}.png' for i in range(25)], (32, 32))
        write_list(root / f'splits/bertinetto/{part}.txt', classes)


def write_mini_imagenet(root: Path) -> None:
    """Write ``{train,val,test}/n*/n*.jpg``, pictures of 84 x 84 and of other sizes."""
    rng = np.random.default_rng(0)
    for number, part in enumerate(PARTS):
        for i in range(6):
            name = f'n{1532829 + 1000 * number + i:08d}'
            size = (84, 84) if i else (100, 75)
            write_class(rng, root / part / name, [f'{name}_{i:08d}.jpg' for i in range(25)], size)


def write_omniglot(root: Path) -> None:
    """Write ``images_{background,evaluation}/<alphabet>/character*/*.png``: 20 drawings of one bit, ink is black."""
    rng = np.random.default_rng(0)
    # Of 48 background characters 0.15 are validation: seven, enough for five ways.
    for part, alphabets in (('background', ('Greek', 'Japanese_(katakana)')), ('evaluation', ('Angelic',))):
        for alphabet in alphabets:
            for i in range(1, 25 if part == 'background' else 8):
                folder = root / f'images_{part}' / alphabet / f'character{i:02d}'
                write_class(rng, folder, [f'{i:04d}_{j:02d}.png' for j in range(1, 21)], (105, 105), mode='1')


def write_folders(root: Path) -> None:
    """Write ``<class>/*.jpg`` for 30 classes of one's own."""
    rng = np.random.default_rng(0)
    for i in range(30):
        write_class(rng, root / f'class_{i:02d}', [f'{j}.jpg' for j in range(25)], (96, 72))
