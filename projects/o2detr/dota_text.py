"""DOTA's text labels as people have them.

A line is ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``. mmrotate's ``DOTADataset`` stops with a bare IndexError, KeyError
or ValueError at the two header lines of DOTA's own files, at a line without the last column, at a blank one, at a class
that the config does not name, and trains on numbers that are none. Here what has one meaning is read, and the rest is
said with file and line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mmrotate.datasets import DOTADataset
from mmrotate.registry import DATASETS

HEADERS = ('imagesource:', 'gsd:')
SHOWN = 5  # faults that a message names


def read_labels(path: Path, classes: Sequence[str]) -> tuple[list[dict], list[str]]:
    """Read a label file.

    Args:
        path: File in UTF-8.
        classes: Names that may occur.

    Returns:
        Objects with ``bbox`` (eight numbers), ``bbox_label`` and ``difficulty`` (0 if the column is missing), and the
        faults: file, line and what is wrong there.
    """
    objects, faults = [], []
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        return [], [f'{path}: not in UTF-8, {error}']
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0].lower().startswith(HEADERS):
            continue
        try:
            objects.append(read_object(fields, classes))
        except (ValueError, OverflowError) as error:
            faults.append(f'{path}, line {number}: {error}')
    return objects, faults


def read_object(fields: Sequence[str], classes: Sequence[str]) -> dict:
    """Read the fields of a line.

    Raises:
        ValueError: What is wrong.
    """
    if len(fields) not in (9, 10):
        raise ValueError(f'{len(fields)} fields, not eight numbers, a class and 0 or 1 for difficult')
    corners = [float(field) for field in fields[:8]]
    if not all(map(math.isfinite, corners)):
        raise ValueError(f'corners {" ".join(fields[:8])} are not all numbers')
    if fields[8] not in classes:
        raise ValueError(f'class {fields[8]!r} is none of {", ".join(classes)}')
    return dict(
        bbox=corners,
        bbox_label=list(classes).index(fields[8]),
        difficulty=int(float(fields[9])) if len(fields) == 10 else 0,
    )


@DATASETS.register_module()
class DOTATextDataset(DOTADataset):
    """``DOTADataset`` that reads headers, blank lines and lines without ``difficult``, and names what it cannot read.

    Args:
        **kwargs: Of the host: ``ann_file``, a folder of ``*.txt`` (empty for pictures without labels), ``data_prefix``
            with ``img_path``, ``img_suffix``, ``diff_thr``, ``metainfo`` with ``classes``.

    Raises:
        FileNotFoundError: ``ann_file`` is no folder with label files.
        ValueError: Lines that cannot be read; the message names the first ones.
    """

    def load_data_list(self) -> list[dict]:
        """Return a dictionary a picture, in the order of the names."""
        if not self.ann_file:
            return super().load_data_list()
        files = sorted(Path(self.ann_file).glob('*.txt'))
        if not files:
            raise FileNotFoundError(f'{self.ann_file} is no folder of label files (*.txt)')
        pictures, wrong = [], []
        for path in files:
            objects, faults = read_labels(path, self.metainfo['classes'])
            wrong += faults
            name = f'{path.stem}.{self.img_suffix}'
            for each in objects:
                each['ignore_flag'] = int(each.pop('difficulty') > self.diff_thr)
            img_path = str(Path(self.data_prefix['img_path'], name))
            pictures.append(dict(img_id=path.stem, file_name=name, img_path=img_path, instances=objects))
        if wrong:
            raise ValueError('\n'.join([f'{len(wrong)} lines of labels cannot be read:', *wrong[:SHOWN]]))
        return pictures
