"""Make ``tests/data/omniglot/omniglot28.npz``: half of Omniglot's characters at 28x28 pixels, one bit a pixel.

    python tools/data/omniglot_samples.py omniglot_packed.npz tests/data/omniglot
    python tools/data/omniglot_samples.py omniglot_packed.npz work_dirs/omniglot --all

The second takes every alphabet, for ``python tools/claims.py its_maml --data work_dirs/omniglot``.

The input holds the two arrays of Omniglot (Lake et al., Science 2015, MIT license), ``background`` (964 characters) and
``evaluation`` (659), each ``(characters, 20, 1379)``: 105x105 bits a drawing, ink 1, alphabets in alphabetical order.
Each drawing is scaled by area; a pixel is ink where at least ``INK`` of it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

SIZE = 28
INK = 0.3  # strokes are two or three of 105 pixels wide: at 0.5 the thin ones would break
# Characters in each alphabet, in the order of the files (brendenlake/omniglot).
BACKGROUND = {
    'Alphabet_of_the_Magi': 20, 'Anglo-Saxon_Futhorc': 29, 'Arcadian': 26, 'Armenian': 41, 'Asomtavruli': 40,
    'Balinese': 24, 'Bengali': 46, 'Blackfoot': 14, 'Braille': 26, 'Burmese': 34, 'Cyrillic': 33, 'Early_Aramaic': 22,
    'Futurama': 26, 'Grantha': 43, 'Greek': 24, 'Gujarati': 48, 'Hebrew': 22, 'Inuktitut': 16, 'Hiragana': 52,
    'Katakana': 47, 'Korean': 40, 'Latin': 26, 'Malay': 40, 'Mkhedruli': 41, 'N_Ko': 33, 'Ojibwe': 14, 'Sanskrit': 42,
    'Syriac_Estrangelo': 23, 'Tagalog': 17, 'Tifinagh': 55,
}  # fmt: skip
EVALUATION = {
    'Angelic': 20, 'Atemayar_Qelisayer': 26, 'Atlantean': 26, 'Aurek-Besh': 26, 'Avesta': 26, 'Ge_ez': 26,
    'Glagolitic': 45, 'Gurmukhi': 45, 'Kannada': 41, 'Keble': 26, 'Malayalam': 47, 'Manipuri': 40, 'Mongolian': 30,
    'Old_Church_Slavonic': 45, 'Oriya': 46, 'Sylheti': 28, 'Syriac_Serto': 23, 'Tengwar': 25, 'Tibetan': 42,
    'ULOG': 26,
}  # fmt: skip
# Training and validation alphabets are Lake's background set, test alphabets his evaluation set.
VAL = ('Bengali', 'Hebrew', 'Latin')
TRAIN = (
    'Alphabet_of_the_Magi', 'Anglo-Saxon_Futhorc', 'Arcadian', 'Armenian', 'Balinese', 'Burmese', 'Cyrillic',
    'Futurama', 'Grantha', 'Greek', 'Gujarati', 'Hiragana', 'Inuktitut', 'Korean', 'N_Ko', 'Sanskrit',
)  # fmt: skip
TEST = ('Angelic', 'Atlantean', 'Glagolitic', 'Gurmukhi', 'Kannada', 'Keble', 'Tengwar')


def read(packed: np.ndarray, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Split ``(characters, 20, 1379)`` bits into ``(characters, 20, 105, 105)`` floats for each alphabet."""
    if len(packed) != sum(counts.values()):
        raise ValueError(f'{len(packed)} characters, but the alphabets have {sum(counts.values())}')
    ends = np.cumsum(list(counts.values()))
    bits = np.unpackbits(packed, axis=-1)[..., : 105 * 105].reshape(-1, 20, 105, 105).astype(np.float32)
    return dict(zip(counts, np.split(bits, ends[:-1]), strict=True))


def shrink(drawings: np.ndarray) -> np.ndarray:
    """Return ``(characters, 20, 98)``: the packed bits of the drawings at 28x28."""
    small = [cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for image in drawings.reshape(-1, 105, 105)]
    return np.packbits((np.stack(small) >= INK).reshape(len(drawings), 20, -1), axis=-1)


def main() -> None:
    """Read, shrink, write, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('packed', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--all', action='store_true', help="Lake's two sets: all alphabets but those of val to train")
    args = parser.parse_args()
    with np.load(args.packed) as file:
        alphabets = {**read(file['background'], BACKGROUND), **read(file['evaluation'], EVALUATION)}
    train, test = TRAIN, TEST
    if args.all:
        train, test = tuple(name for name in BACKGROUND if name not in VAL), tuple(EVALUATION)
    chosen = {name: part for part, names in dict(train=train, val=VAL, test=test).items() for name in names}
    bits = np.concatenate([shrink(alphabets[name]) for name in chosen])
    classes = [f'{part}/{a}/{i + 1:02}' for a, part in chosen.items() for i in range(len(alphabets[a]))]
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / 'omniglot28.npz'
    np.savez_compressed(file, bits=bits, shape=np.array([SIZE, SIZE]), classes=np.array(classes))
    counts = {part: sum(name.startswith(part) for name in classes) for part in ('train', 'val', 'test')}
    print(f'{file}: {file.stat().st_size} bytes, characters {counts}, ink {np.unpackbits(bits).mean():.3f}')


if __name__ == '__main__':
    main()
