"""Oriented objects that are real pictures and turned evenly: stretched handwritten digits pasted on photos.

Scans: scikit-learn's ``load_digits`` (1,797 scans of 8x8 pixels, from UCI), cut to their ink, stretched 1.6 to 2.4
times along one axis and turned by any angle. Backgrounds: the photos of ``tests/data/clothing10``. No scan and no photo
is in both training and test. All digits are one class: telling turned digits apart takes longer than to find them,
which the claims are about. Large digits are twice as large, and one or two in an image.
"""

from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

SIZE = 128  # pixels, images are square
CLASSES = ('digit',)
IMAGES = dict(train=600, val=150)


class Painter:
    """Makes the images of one part from a seed."""

    def __init__(self, part: str, photos: Path, large: bool = False) -> None:
        self.short, self.numbers = ((36, 52), (1, 2)) if large else ((18, 26), (3, 5))
        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.images))
        cut = len(order) * 3 // 4
        self.digits = digits
        self.chosen = order[:cut] if part == 'train' else order[cut:]
        self.photos = sorted((photos / part).rglob('*.jpg'))
        self.rng = np.random.default_rng(dict(train=1, val=2)[part])

    def paint(self) -> tuple[np.ndarray, list[str]]:
        """Return a BGR image with at most five digits and its lines in DOTA's format."""
        image, boxes, lines = self.background(), [], []
        for _ in range(self.rng.integers(*self.numbers, endpoint=True)):
            number = self.chosen[self.rng.integers(len(self.chosen))]
            for _ in range(50):  # a free place; else the digit is left out
                short = self.rng.uniform(*self.short)
                long = short * self.rng.uniform(1.6, 2.4)
                place = ((*self.rng.uniform(8, SIZE - 8, 2),), (long, short), self.rng.uniform(0, 180))
                corners = cv2.boxPoints(place)
                inside = corners.min() >= 1 and corners.max() <= SIZE - 1
                if inside and not any(cv2.intersectConvexConvex(corners, box)[0] > 0 for box in boxes):
                    self.paste(image, self.digits.images[number], place)
                    boxes.append(corners)
                    lines.append(' '.join([*(f'{value:.2f}' for value in corners.ravel()), CLASSES[0], '0']))
                    break
        return image.astype(np.uint8), lines

    def background(self) -> np.ndarray:
        """Return a random square of a random photo."""
        photo = cv2.imread(str(self.photos[self.rng.integers(len(self.photos))]))
        scale = SIZE / min(photo.shape[:2])
        photo = cv2.resize(photo, None, fx=scale + 1e-3, fy=scale + 1e-3)
        y, x = (self.rng.integers(0, length - SIZE + 1) for length in photo.shape[:2])
        return photo[y : y + SIZE, x : x + SIZE].astype(np.float32)

    def paste(self, image: np.ndarray, scan: np.ndarray, place: tuple) -> None:
        """Draw a scan so that its ink fills a box, dark on bright ground and bright on dark."""
        rows, columns = np.nonzero(scan > 4)
        ink = scan[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(np.float32) / 16
        height, width = ink.shape
        (x, y), (long, short), degrees = place
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        # The longer side of the box lies along the rows of the scan, so every class is stretched the same way.
        matrix = turn @ np.diag([long / width, short / height])
        shift = np.array([x, y]) - matrix @ np.array([(width - 1) / 2, (height - 1) / 2])
        alpha = cv2.warpAffine(
            ink, np.column_stack([matrix, shift]), (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderValue=0
        )[..., None]
        ground = image[max(int(y) - 8, 0) : int(y) + 8, max(int(x) - 8, 0) : int(x) + 8].mean()
        color = self.rng.uniform(0, 60, 3) if ground > 127 else self.rng.uniform(195, 255, 3)
        image += np.clip(alpha * 1.3, 0, 1) * (color - image)


def make_data(folder: Path, photos: Path, scale: float = 1.0, large: bool = False) -> None:
    """Write both parts in DOTA's layout; a part that is there stays.

    Args:
        folder: Gets ``{train,val}/{images,labelTxt}``.
        photos: With ``train/`` and ``val/``.
        scale: Factor of the numbers of images, for a smoke test.
        large: Whether the digits are.
    """
    for part, count in IMAGES.items():
        if (folder / part / 'done').is_file():
            continue
        for kind in ('images', 'labelTxt'):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
        painter = Painter(part, photos, large)
        for number in range(max(8, round(count * scale))):
            image, lines = painter.paint()
            cv2.imwrite(str(folder / part / 'images' / f'{number:04d}.png'), image)
            (folder / part / 'labelTxt' / f'{number:04d}.txt').write_text('\n'.join([*lines, '']))
        (folder / part / 'done').touch()
