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

RESULT_NAME = re.compile(r'(?P<prefix>.*_det_.*)_(?P<name>[^_]+)\.txt$')


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


def read_voc_results(folder: str | os.PathLike, dataset: Dataset) -> Detections:
    """Read ``*_det_*_<class>.txt`` of a folder: lines of image name, score, x1, y1, x2, y2.

    Raises:
        ValueError: If there are none, they are of several sets, a line is not of this form, or an image or class is not
            in the data set.
    """
    found = {path: RESULT_NAME.match(path.name) for path in sorted(Path(folder).glob('*.txt'))}
    found = {path: match for path, match in found.items() if match}
    if not found:
        raise ValueError(f'{folder} has no file like comp4_det_test_person.txt')
    prefixes = sorted({match['prefix'] for match in found.values()})
    if len(prefixes) > 1:
        raise ValueError(f'{folder} has results of several sets: {prefixes}')
    names = _image_names(dataset)
    image, category, rows = [], [], []
    for path, match in found.items():
        label = lookup([match['name']], dataset.classes, f'{folder}: class')[0]
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), start=1):
            fields = line.split()
            try:
                name, values = fields[0], [float(field) for field in fields[1:]]
                image.append(names[name])
                if len(values) != 5:
                    raise ValueError(f'{len(values)} numbers')
            except KeyError:
                raise ValueError(f'{path}, line {number}: unknown image {name}') from None
            except (ValueError, IndexError) as error:
                text = f'{path}, line {number}: expected name, score, x1, y1, x2, y2: {error}'
                raise ValueError(text) from error
            category.append(label)
            rows.append(values)
    values = np.array(rows, dtype=np.float64).reshape(-1, 5)
    table = Detections.make(image, category, values[:, 0], values[:, 1:] - [1, 1, 0, 0])
    return table.select(np.argsort(table.image, kind='stable'))


def write_voc_results(table: Detections, dataset: Dataset, folder: str | os.PathLike, prefix: str = 'comp4_det_test'):
    """Write ``<prefix>_<class>.txt`` for every class, also for those without a box."""
    names = {place: name for name, place in _image_names(dataset).items()}
    corner = table.box + [1, 1, 0, 0]
    for label, name in enumerate(dataset.classes):
        rows = np.flatnonzero(table.category == label)
        lines = (
            f'{names[int(table.image[row])]} {table.score[row]:.12g} ' + ' '.join(f'{x:.3f}' for x in corner[row])
            for row in rows
        )
        write_text(Path(folder) / f'{prefix}_{name}.txt', ''.join(f'{line}\n' for line in lines))


def _image_names(dataset: Dataset) -> dict[str, int]:
    """VOC's name of each image: its file name without folder and suffix, or its id where there is none."""
    pairs = zip(dataset.image_ids, dataset.file_names, strict=True)
    names = [Path(file_name).stem or str(image_id) for image_id, file_name in pairs]
    return {name: place for place, name in enumerate(names)}
