"""Detection sets of real handwritten digits: scans pasted on crops of photos, each set annotates some names only.

Scans: scikit-learn's ``load_digits`` (1,797 scans of 8x8 pixels, from UCI). Backgrounds: the blood-cell photos of
``tests/data/bccd``. They come with the repository, are 364 different pictures with round shapes that a detector must
tell from digits, and their train and validation files are apart; scikit-learn's own two photos would show the same
buildings and petals in training and test. No scan and no photo is in both training and test.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

SIZE = 96  # pixels, images are square
DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
A, B = DIGITS[:6], DIGITS[4:]
SHARED = DIGITS[4:6]
SINGLE = DIGITS[:4] + DIGITS[6:]
# Claim 5: three names that pretraining neither annotates nor shows; every third digit, chosen before any run.
NEW = DIGITS[2::3]
OLD = tuple(name for name in DIGITS if name not in NEW)
# Set: its names, the digits that are in its images, images.
SETS = dict(
    a=(A, DIGITS, 600),
    b=(B, DIGITS, 600),
    old_a=(OLD[:4], OLD, 600),
    old_b=(OLD[3:], OLD, 600),
    new=(NEW, DIGITS, 60),
    test=(DIGITS, DIGITS, 200),
)


class Painter:
    """Makes the images of one split from a seed."""

    def __init__(self, split: str, photos: Path, seed: int) -> None:
        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.images))
        cut = len(order) * 3 // 4
        chosen = order[:cut] if split == 'train' else order[cut:]
        self.scans = {
            name: [digits.images[i] for i in chosen if digits.target[i] == value] for value, name in enumerate(DIGITS)
        }
        self.photos = [cv2.imread(str(path)) for path in sorted((photos / split).glob('*.jpg'))]
        self.rng = np.random.default_rng(seed)

    def paint(self, shown: Sequence[str]) -> tuple[np.ndarray, list[tuple[str, list[float]]]]:
        """Return a BGR image with 3–6 digits, and name and box ``[x, y, w, h]`` (pixels) of each."""
        photo = self.photos[self.rng.integers(len(self.photos))]
        y, x = (self.rng.integers(0, length - SIZE + 1) for length in photo.shape[:2])
        image = photo[y : y + SIZE, x : x + SIZE].astype(np.float32)
        boxes: list[tuple[str, list[float]]] = []
        for _ in range(self.rng.integers(3, 7)):
            name = str(self.rng.choice(shown))
            side = int(self.rng.integers(16, 29))
            scan = self.scans[name][self.rng.integers(len(self.scans[name]))]
            alpha = np.clip(cv2.resize(scan / 16, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1)
            rows, columns = np.nonzero(alpha > 0.25)
            extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            for _ in range(50):  # a free place; else the digit is left out
                left, top = self.rng.integers(0, SIZE - side + 1, 2)
                box = extent + np.array([left, top, left, top])
                if all(_overlap(box, other) < 0.1 for _, other in boxes):
                    ink = self.rng.integers(0, 90, 3)
                    patch = image[top : top + side, left : left + side]
                    patch += alpha[..., None] * (ink - patch)
                    boxes.append((name, box))
                    break
        return image.astype(np.uint8), [(name, [*map(float, (*b[:2], *(b[2:] - b[:2])))]) for name, b in boxes]


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection of two boxes xyxy over the smaller one."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    areas = [(box[2:] - box[:2]).prod() for box in (first, second)]
    return np.clip(high - low, 0, None).prod() / min(areas)


def make_sets(folder: Path, photos: Path, scale: float = 1.0) -> None:
    """Write all sets as PNG files and COCO annotations; a set that is there stays.

    Args:
        folder: Gets ``<set>.json`` and ``<set>/*.png``.
        photos: With ``train/`` and ``val/``.
        scale: Factor of the numbers of images, for a smoke test.
    """
    for seed, (key, (names, shown, count)) in enumerate(SETS.items()):
        if (folder / f'{key}.json').is_file():
            continue
        (folder / key).mkdir(parents=True, exist_ok=True)
        painter = Painter('val' if key == 'test' else 'train', photos, seed)
        data = dict(images=[], annotations=[])
        data['categories'] = [dict(id=DIGITS.index(name) + 1, name=name) for name in names]
        for number in range(1, max(4, round(count * scale)) + 1):
            image, boxes = painter.paint(shown)
            cv2.imwrite(str(folder / key / f'{number}.png'), image)
            data['images'].append(dict(id=number, file_name=f'{number}.png', width=SIZE, height=SIZE))
            for name, box in boxes:
                if name in names:
                    annotation = dict(image_id=number, category_id=DIGITS.index(name) + 1, bbox=box, iscrowd=0)
                    data['annotations'].append(
                        dict(annotation, id=len(data['annotations']) + 1, area=box[2] * box[3])
                    )  # fmt: skip
        (folder / f'{key}.json').write_text(json.dumps(data), encoding='utf-8')
