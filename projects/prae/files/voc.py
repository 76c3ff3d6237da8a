"""PASCAL VOC: annotation XML, and result text files ``comp4_det_<set>_<class>.txt``.

VOC counts pixels from 1 and its corners are inside the box, so a corner ``(1, 1)`` is ``(0, 0)`` here; the other corner
stays, because it is moved by one and then is the first pixel outside.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from ...utils.atomic import write_text
from ..boxes.tables import Dataset, Detections, GroundTruth, lookup
from .names import images_of, short_names

RESULT_NAME = re.compile(r'.*_det_.*_.+\.txt$')
SLASH = '%2F'  # no file name has a slash, some classes do


def read_voc_ground_truth(folder: str | os.PathLike) -> GroundTruth:
    """Read all XML files of a folder; class names are sorted, image ids are the file names without suffix.

    Raises:
        ValueError: If there are none, or one is not VOC.
    """
    files = sorted(Path(folder).glob('*.xml'))
    if not files:
        raise ValueError(f'{folder} has no XML file')
    sizes, rows = [], []
    for number, path in enumerate(files):
        try:
            root = ElementTree.parse(path).getroot()
            sizes.append([float(root.findtext(f'size/{side}', '0')) for side in ('width', 'height')])
            for item in root.iter('object'):
                corner = [float(item.find('bndbox').findtext(key)) for key in ('xmin', 'ymin', 'xmax', 'ymax')]
                rows.append((number, item.findtext('name'), corner, item.findtext('difficult', '0') == '1'))
        except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f'{path} is not a VOC annotation: {error}') from error
    classes = tuple(sorted({name for _, name, *_ in rows}))
    ids = tuple(path.stem for path in files)
    names = tuple(f'{path.stem}.jpg' for path in files)
    dataset = Dataset(ids, names, np.array(sizes), classes, tuple(range(1, len(classes) + 1)))
    box = np.array([corner for _, _, corner, _ in rows], dtype=np.float64).reshape(-1, 4) - [1, 1, 0, 0]
    category = lookup([name for _, name, *_ in rows], classes, 'class')
    image = np.array([number for number, *_ in rows], dtype=np.int64)
    difficult = np.array([flag for *_, flag in rows], dtype=bool)
    return GroundTruth(dataset, image, category, box, difficult, np.zeros(len(rows), dtype=bool))


def has_voc_name(path: Path) -> bool:
    """Whether a file is called like ``comp4_det_test_person.txt``."""
    return RESULT_NAME.match(path.name) is not None


def read_voc_results(folder: str | os.PathLike, dataset: Dataset) -> Detections:
    """Read ``*_det_*_<class>.txt`` of a folder: lines of image name, score, x1, y1, x2, y2.

    Raises:
        ValueError: If there are none, they are of several sets, a line is not of this form, or an image or class is not
            in the data set.
    """
    files = [path for path in sorted(Path(folder).glob('*.txt')) if has_voc_name(path)]
    if not files:
        raise ValueError(f'{folder} has no file like comp4_det_test_person.txt')
    found = _classes_of(files, dataset)
    image, category, rows = [], [], []
    for path, label in found.items():
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), start=1):
            # Numbers from the end: a file name may have blanks.
            name, *fields = line.rsplit(maxsplit=5)
            try:
                values = [float(field) for field in fields]
                if len(values) != 5:
                    raise ValueError(f'{len(values)} numbers')
            except ValueError as error:
                text = f'{path}, line {number}: expected name, score, x1, y1, x2, y2: {error}'
                raise ValueError(text) from error
            image.append(name)
            category.append(label)
            rows.append(values)
    values = np.array(rows, dtype=np.float64).reshape(-1, 5)
    place = images_of(image, dataset, folder, names_first=True)
    table = Detections.make(place, category, values[:, 0], values[:, 1:] - [1, 1, 0, 0])
    return table.select(np.argsort(table.image, kind='stable'))


def _classes_of(files: list[Path], dataset: Dataset) -> dict[Path, int]:
    """Class of each file: what follows a prefix that all files have, for a class may have ``_`` in it."""
    ends = {f'_{name.replace("/", SLASH)}': label for label, name in enumerate(dataset.classes)}
    choices = [
        {path.stem[: -len(end)]: label for end, label in ends.items() if path.stem.endswith(end)} for path in files
    ]
    for path, choice in zip(files, choices, strict=True):
        if not choice:
            raise ValueError(f'{path}: its name ends in no class of the annotation file, {list(dataset.classes)[:5]}')
    shared = set.intersection(*map(set, choices))
    if not shared:
        prefixes = sorted({min(choice, key=len) for choice in choices})
        raise ValueError(f'{files[0].parent} has results of several sets: {prefixes}')
    prefix = min(shared, key=len)  # of `test_red_cell` with classes `cell` and `red_cell`: the longer class
    return {path: choice[prefix] for path, choice in zip(files, choices, strict=True)}


def write_voc_results(table: Detections, dataset: Dataset, folder: str | os.PathLike, prefix: str = 'comp4_det_test'):
    """Write ``<prefix>_<class>.txt`` for every class, also for those without a box.

    Raises:
        ValueError: If boxes are rotated.
    """
    if table.box.shape[1] != 4:
        raise ValueError(f'{folder}: VOC text files have no rotated boxes; write .json')
    names = short_names(dataset)
    corner = table.box + [1, 1, 0, 0]
    for label, name in enumerate(dataset.classes):
        rows = np.flatnonzero(table.category == label)
        lines = (
            f'{names[table.image[row]]} {table.score[row]:.12g} ' + ' '.join(f'{x:.3f}' for x in corner[row])
            for row in rows
        )
        write_text(Path(folder) / f'{prefix}_{name.replace("/", SLASH)}.txt', ''.join(f'{line}\n' for line in lines))
