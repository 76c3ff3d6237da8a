"""A COCO annotation file that is checked before anything is built on it.

Not in the paper: our decision, because joint training reads other people's files, and without a check a broken one
shows as a bare ``KeyError``, or as an evaluation of nothing, long after the start.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from mmdet.datasets.api_wrappers import COCO

from ..text.vocabulary import normalize_name


class CheckedCOCO(COCO):
    """mmdet's COCO index over a file that was checked; it prints nothing.

    Args:
        path: The annotation file.
        need_annotations: Whether a file without the key ``annotations`` is an error. True; False for a test set.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, cut off or not COCO, has no images, repeats an id, or an entry lacks a field.
    """

    def __init__(self, path: str | os.PathLike, need_annotations: bool = True) -> None:
        super().__init__(None)
        self.dataset = read_json(path)
        _check(self.dataset, path, need_annotations)
        for number, annotation in enumerate(self.dataset.get('annotations', ()), start=1):
            _fill(annotation, number)
        self.createIndex()

    def createIndex(self) -> None:  # noqa: N802, the name is pycocotools'
        """Build the index as pycocotools does, without its prints, and refresh mmdet's aliases of it."""
        data = self.dataset
        self.imgs = {image['id']: image for image in data['images']}
        self.cats = {category['id']: category for category in data['categories']}
        self.anns = {annotation['id']: annotation for annotation in data.get('annotations', ())}
        self.imgToAnns.clear()
        self.catToImgs.clear()
        for annotation in self.anns.values():
            self.imgToAnns[annotation['image_id']].append(annotation)
            self.catToImgs[annotation['category_id']].append(annotation['image_id'])
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs


def categories_of(coco: COCO, classes: Sequence[str] | None, path: str | os.PathLike) -> list[dict]:
    """Return the categories that have the given names, in the file's order.

    mmdet numbers labels in the file's order whatever the order of ``classes`` is (``CocoDataset.load_data_list`` says
    so in a comment), hence this order and no other.

    Args:
        coco: The file's index.
        classes: Class names in any order and spelling, or one name. None: all categories.
        path: The file, for messages.

    Raises:
        ValueError: If a class is not in the file, or two categories of one name are.
    """
    categories = coco.dataset['categories']
    classes = [classes] if isinstance(classes, str) else classes
    if classes is not None:
        present = {normalize_name(category['name']) for category in categories}
        missing = [name for name in classes if normalize_name(name) not in present]
        if missing:
            names = [category['name'] for category in categories]
            raise ValueError(f'{path} has no category {missing}; it has {names}')
        wanted = {normalize_name(name) for name in classes}
        categories = [category for category in categories if normalize_name(category['name']) in wanted]
    twice = _repeated(normalize_name(category['name']) for category in categories)
    if twice:
        raise ValueError(f'{path} has several categories of one name: {twice}')
    return categories


def clean_box(box: object, width: int, height: int) -> tuple[list[float], bool] | None:
    """Clip a box to its image.

    Args:
        box: ``(x, y, w, h)`` in absolute pixels, if it is a box at all.
        width: Of the image, pixels.
        height: Of the image, pixels.

    Returns:
        The clipped box and whether more than a pixel was cut off (less is rounding); None for a box of which less
        than a pixel of width or height is left, which mmdet drops too, but without a word.
    """
    if not is_box(box):
        return None
    x, y, w, h = box
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if x2 - x1 < 1 or y2 - y1 < 1:
        return None
    cut = max(x1 - x, y1 - y, x + w - x2, y + h - y2)
    return [x1, y1, x2 - x1, y2 - y1], cut > 1


def read_json(path: str | os.PathLike) -> dict:
    """Return the content of the file, or say in one line why there is none."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f'annotation file {path} does not exist')
    if os.path.getsize(path) == 0:
        raise ValueError(f'annotation file {path} is empty')
    with open(path, encoding='utf-8') as file:
        try:
            return json.load(file)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            raise ValueError(f'annotation file {path} is cut off or not JSON: {error}') from error


def check_lists(data: object, path: str | os.PathLike, need_annotations: bool = True) -> None:
    """Check that a file's content has the three lists of COCO's format.

    Args:
        data: The content.
        path: The file, for messages.
        need_annotations: Whether a file may not be without ``annotations``.

    Raises:
        ValueError: If it has not.
    """
    keys = ('images', 'categories', 'annotations') if need_annotations else ('images', 'categories')
    missing = [key for key in keys if not isinstance(data, dict) or not isinstance(data.get(key), list)]
    if missing:
        raise ValueError(
            f'{path} is not a COCO annotation file: it needs the lists {", ".join(keys)} and lacks {", ".join(missing)}'
        )


def _check(data: object, path: str | os.PathLike, need_annotations: bool) -> None:
    """Check what mmdet and pycocotools take for granted."""
    check_lists(data, path, need_annotations)
    if not data['images'] or not data['categories']:
        raise ValueError(f'{path} has {len(data["images"])} images and {len(data["categories"])} categories')
    for image in data['images']:
        _fill_file_name(image)
    _check_fields(data['images'], ('id', 'file_name', 'width', 'height'), 'image', path)
    _check_fields(data['categories'], ('id', 'name'), 'category', path)
    _check_fields(data.get('annotations', ()), ('image_id', 'category_id', 'bbox'), 'annotation', path)
    for kind, entries in dict(category=data['categories'], image=data['images']).items():
        _refer(data.get('annotations', ()), f'{kind}_id', [entry['id'] for entry in entries], path)


def _fill_file_name(image: object) -> None:
    """Give an image of LVIS, which has an address only, the path below COCO's folder that ends the address."""
    if isinstance(image, dict) and not image.get('file_name') and isinstance(image.get('coco_url'), str):
        image['file_name'] = '/'.join(image['coco_url'].split('/')[-2:])


def _refer(annotations: Sequence[dict], key: str, ids: Sequence, path: str | os.PathLike) -> None:
    """Write ids as the entries spell them that are meant: many tools write 5 in one list and "5" in the other."""
    spelled = {str(value): value for value in ids}
    strange = set()
    for annotation in annotations:
        value = str(annotation[key])
        annotation[key] = spelled.get(value)
        if value not in spelled:
            strange.add(value)
    if strange:
        raise ValueError(f'{path} has annotations of {key}s that it does not list: {sorted(strange)[:10]}')


def _fill(annotation: dict, number: int) -> None:
    """Give an annotation the fields that many tools leave out and that mmdet and COCO's evaluation need.

    Its id becomes its number, counted from 1: COCO's evaluation takes the match with an annotation 0 for none.
    """
    annotation['id'] = number
    annotation.setdefault('iscrowd', 0)
    if annotation.get('area') is None:
        box = annotation['bbox']
        annotation['area'] = box[2] * box[3] if is_box(box) else 0


def _check_fields(entries: Iterable, fields: Sequence[str], kind: str, path: str | os.PathLike) -> None:
    """Each entry must have the fields, and no id may occur twice; an entry may do without one that is not asked for."""
    for number, entry in enumerate(entries):
        missing = [field for field in fields if not isinstance(entry, dict) or entry.get(field) in (None, '')]
        if missing:
            raise ValueError(f'{path}: {kind} number {number} has no {", ".join(missing)}')
    twice = _repeated(entry['id'] for entry in entries if 'id' in entry)
    if twice:
        raise ValueError(f'{path}: {kind} ids that occur more than once: {twice[:10]}')


def _repeated(values: Iterable) -> list:
    """Return the values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def is_box(box: object) -> bool:
    """Return whether this is a list of four finite numbers."""
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, (int, float)) for value in box)
    return numbers and all(math.isfinite(value) for value in box)
