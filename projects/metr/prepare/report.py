"""Counts of an annotation file, as every part of ``prepare`` prints them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...utils.atomic import write_text
from ..data.federated import NEGATIVE, PARTLY_BOXED


def files_below(folder: str | os.PathLike) -> set[str]:
    """Return the paths of all files below a folder, relative to it: one walk is faster than a million questions."""
    found = set()
    for place, _, names in os.walk(folder):
        inner = Path(place).relative_to(folder).as_posix()
        found.update(names if inner == '.' else (f'{inner}/{name}' for name in names))
    return found


def without_absent(images: Iterable[dict], folder: str | os.PathLike) -> tuple[list[dict], int]:
    """Return the images that lie in the folder, and how many do not.

    Raises:
        FileNotFoundError: None does.
    """
    images = list(images)
    there = files_below(folder)
    kept = [image for image in images if image['file_name'] in there]
    if images and not kept:
        raise FileNotFoundError(f'none of {len(images)} images lies in {folder}, not even {images[0]["file_name"]}')
    return kept, len(images) - len(kept)


def write_and_report(path: Path, content: Mapping, left_out: Mapping[str, int]) -> None:
    """Write an annotation file and print what it holds and what was left out of it."""
    write_text(path, json.dumps(content))
    print(f'{path}: {describe(content)}')
    for what, count in left_out.items():
        if count:
            print(f'  left out: {count} {what}')


def describe(content: Mapping) -> str:
    """Return the counts of an annotation file in words."""
    boxes = Counter(annotation['category_id'] for annotation in content['annotations'])
    crowds = sum(bool(annotation.get('iscrowd')) for annotation in content['annotations'])
    text = (
        f'{len(content["images"])} images, {sum(boxes.values())} boxes, {crowds} of them of groups, '
        f'{len(content["categories"])} names, {len(content["categories"]) - len(boxes)} of them without a box'
    )
    for key, meaning in {NEGATIVE: 'known to be absent', PARTLY_BOXED: 'present and not all boxed'}.items():
        count = sum(len(image.get(key, ())) for image in content['images'])
        if count:
            text += f', {count} names {meaning}'
    return text
