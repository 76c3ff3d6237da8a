"""Make ``tests/data/hit_uav``: square crops around the objects of aerial infrared frames, with oriented boxes.

    python tools/data/hit_uav_samples.py hit_uav_obb_480.zip split_by_condition.json tests/data/hit_uav

The zip holds HIT-UAV (Suo et al., Scientific Data 2023, CC BY 4.0) scaled to 480x384 with boxes in DOTA's text format:
``hit_uav_obb/{train,val}/{images,labelTxt}``. The json lists its frames as ``train`` and ``val`` so that no capture
condition (day or night, height, camera angle, weather) is in both.

Crops are not resized. They are chosen greedily: each takes the window with most objects that no earlier crop of the
frame has, and avoids to cut objects. The name of a crop says where it was, ``<frame>__<size>__<x>___<y>``, as DOTA's
patches do, so that results can be merged to whole frames.
"""

from __future__ import annotations

import argparse
import itertools
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np

# Ten of the source's 3,858 objects in each part are vehicles other than cars: too few for a class of their own.
NAMES = {'car': 'vehicle', 'other-vehicle': 'vehicle', 'bicycle': 'bicycle', 'person': 'person'}
STEP = 8  # pixels between the windows that are tried
VISIBLE = 0.3  # objects of which less is inside are left out


class Frame:
    """Pixels and boxes of a frame.

    Args:
        archive: The zip.
        name: ``<folder>/<frame>``.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        folder, self.name = name.split('/')
        content = archive.read(f'hit_uav_obb/{folder}/images/{self.name}.jpg')
        self.pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
        lines = archive.read(f'hit_uav_obb/{folder}/labelTxt/{self.name}.txt').decode().splitlines()
        rows = [line.split() for line in lines if line.strip()]
        self.corners = np.array([row[:8] for row in rows], np.float32).reshape(-1, 4, 2)
        self.classes = [NAMES[row[8]] for row in rows]
        self.difficult = np.array([row[9] != '0' for row in rows])

    def visible(self, x: int, y: int, size: int) -> np.ndarray:
        """Return the share of each box that is inside a window."""
        window = np.array([[x, y], [x + size, y], [x + size, y + size], [x, y + size]], np.float32)
        inside = [cv2.intersectConvexConvex(box, window)[0] for box in self.corners]
        return np.array(inside) / np.array([cv2.contourArea(box) for box in self.corners])

    def windows(self, size: int, most: int, least: int) -> list[tuple[int, int]]:
        """Return the left upper corners of at most ``most`` windows; all but the first hold ``least`` new objects."""
        height, width = self.pixels.shape
        places = list(itertools.product(range(0, width - size + 1, STEP), range(0, height - size + 1, STEP)))
        visible = np.stack([self.visible(x, y, size) for x, y in places])
        whole, cut = visible > 0.99, (visible > 0.05) & (visible <= 0.99)
        todo, chosen = ~self.difficult, []
        centers = self.corners.mean(1)
        off_center = np.array(
            [
                np.abs(centers - [x + size / 2, y + size / 2]).mean(1) @ inside
                for (x, y), inside in zip(places, whole, strict=True)
            ]
        ) / np.maximum(whole.sum(1), 1)
        while len(chosen) < most:
            new = (whole & todo).sum(1)
            score = new - 1.5 * cut.sum(1) - off_center / size  # the last term only breaks ties
            best = int(score.argmax())
            if chosen and new[best] < least:
                break
            chosen.append(places[best])
            todo = todo & ~whole[best]
        return chosen

    def labels(self, x: int, y: int, size: int) -> list[str]:
        """Return the lines of a window: corners in its pixels, class, difficult (as in the source, or cut)."""
        return [
            ' '.join([*(f'{value:.1f}' for value in (box - [x, y]).ravel()), name, str(int(hard or share <= 0.99))])
            for box, name, hard, share in zip(
                self.corners, self.classes, self.difficult, self.visible(x, y, size), strict=True
            )
            if share > VISIBLE
        ]


def main() -> None:
    """Write the crops and their labels, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('zip', type=Path, help='hit_uav_obb_480.zip')
    parser.add_argument('split', type=Path, help='split_by_condition.json')
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument('--size', type=int, default=160, help='side of a crop in pixels (default 160)')
    parser.add_argument('--most', type=int, default=2, help='crops of a frame (default 2)')
    parser.add_argument('--least', type=int, default=5, help='new objects in a second crop (default 5)')
    parser.add_argument('--quality', type=int, default=88, help='of the JPEG files (default 88)')
    args = parser.parse_args()
    split = json.loads(args.split.read_text(encoding='utf-8'))
    with zipfile.ZipFile(args.zip) as archive:
        for part in ('train', 'val'):
            images, labels = args.out / part / 'images', args.out / part / 'labelTxt'
            images.mkdir(parents=True, exist_ok=True)
            labels.mkdir(parents=True, exist_ok=True)
            lines, crops = [], 0
            for name in split[part]:
                frame = Frame(archive, name)
                for x, y in frame.windows(args.size, args.most, args.least):
                    crop = frame.pixels[y : y + args.size, x : x + args.size]
                    stem = f'{frame.name}__{args.size}__{x}___{y}'
                    _, jpeg = cv2.imencode('.jpg', crop, [cv2.IMWRITE_JPEG_QUALITY, args.quality])
                    (images / f'{stem}.jpg').write_bytes(jpeg.tobytes())
                    found = frame.labels(x, y, args.size)
                    (labels / f'{stem}.txt').write_text('\n'.join([*found, '']), encoding='utf-8')
                    lines, crops = lines + found, crops + 1
            counts = [
                f'{name} {sum(line.endswith(f"{name} 0") for line in lines)}' for name in dict.fromkeys(NAMES.values())
            ]
            hard = sum(line.endswith(' 1') for line in lines)
            print(f'| `{part}` | {crops} | {", ".join(counts)} | {hard} |')


if __name__ == '__main__':
    main()
