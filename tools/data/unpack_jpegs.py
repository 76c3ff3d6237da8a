"""Unpack an npz of JPEG files into folders, ``{train,val}/<class>/*.jpg``, as ``tools/claims.py`` takes them.

    python tools/data/unpack_jpegs.py cifar10_jpeg.npz work_dirs/cifar10
    python tools/claims.py dsnet --data work_dirs/cifar10 --out projects/dsnet/results/cifar10

The npz holds ``{train,test}_jpeg``, the bytes of all files one after another, ``{train,test}_offset``, where each
begins and the last ends, ``{train,test}_label``, and ``classes``, the names. The test split becomes ``val``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def unpack(packed: Path, out: Path) -> dict[str, int]:
    """Write every JPEG file as it is, named by its place in the split.

    Args:
        packed: The npz.
        out: Folder to write.

    Returns:
        Number of images in ``train`` and ``val``.

    Raises:
        ValueError: Offsets and labels do not fit.
    """
    counts = {}
    with np.load(packed) as file:
        classes = file['classes']
        for split, name in dict(train='train', val='test').items():
            content = file[f'{name}_jpeg'].tobytes()
            offsets, labels = (file[f'{name}_{key}'].tolist() for key in ('offset', 'label'))
            if len(offsets) != len(labels) + 1 or offsets[-1] != len(content):
                raise ValueError(
                    f'{packed}: {name}_offset has {len(offsets)} entries and ends at {offsets[-1]}; of {len(labels)} '
                    f'labels and {len(content)} bytes it should have {len(labels) + 1} and end there'
                )
            for kind in classes:
                (out / split / kind).mkdir(parents=True, exist_ok=True)
            for place, label in enumerate(labels):
                image = content[offsets[place] : offsets[place + 1]]
                (out / split / classes[label] / f'{place:06}.jpg').write_bytes(image)
            counts[split] = len(labels)
    return counts


def main() -> None:
    """Unpack, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('packed', type=Path)
    parser.add_argument('out', type=Path)
    args = parser.parse_args()
    print(f'{args.out}: {unpack(args.packed, args.out)} images')


if __name__ == '__main__':
    main()
