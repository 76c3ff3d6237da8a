"""Pascal VOC's development kit: one xml a picture, lists of names."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from mmdet.datasets import VOCDataset

from .pictures import corners_of, paint, random_boxes, save


def element(parent: ElementTree.Element, tag: str, text: object = None) -> ElementTree.Element:
    """Append ``<tag>text</tag>``."""
    child = ElementTree.SubElement(parent, tag)
    child.text = None if text is None else str(text)
    return child


def start_xml(file_name: str, size: tuple[int, int]) -> ElementTree.Element:
    """Return an annotation with the name and the size of the picture."""
    root = ElementTree.Element('annotation')
    element(root, 'filename', file_name)
    entry = element(root, 'size')
    for tag, value in zip(('width', 'height', 'depth'), (*size, 3), strict=True):
        element(entry, tag, value)
    return root


def save_xml(root: ElementTree.Element, path: Path) -> None:
    """Write an annotation; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path)


def write_list(path: Path, names: list[str]) -> None:
    """Write one name a line; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(names) + '\n')


def write(root: Path) -> None:
    """Write ``VOC2007`` and ``VOC2012``; the test part of 2012 is not published."""
    rng = np.random.default_rng(0)
    names = VOCDataset.METAINFO['classes']
    for year in ('2007', '2012'):
        folder = root / f'VOC{year}'
        parts: dict[str, list[str]] = {'train': [], 'val': [], 'test': []}
        for i in range(6 if year == '2007' else 4):
            number, size = f'{i + 5:06d}' if year == '2007' else f'2008_{i + 2:06d}', ((96, 64), (64, 96))[i % 2]
            parts[('train', 'val', 'train', 'val', 'test', 'test')[i]].append(number)
            boxes = random_boxes(rng, size, 2)
            save(paint(rng, size, [corners_of(box) for box in boxes]), folder / f'JPEGImages/{number}.jpg')
            xml = start_xml(f'{number}.jpg', size)
            for box, name in zip(boxes, rng.choice(names, 2), strict=True):
                entry = element(xml, 'object')
                element(entry, 'name', name)
                element(entry, 'difficult', i % 2)
                bounds = element(entry, 'bndbox')
                for tag, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box + 1, strict=True):  # counted from 1
                    element(bounds, tag, int(value))
            save_xml(xml, folder / f'Annotations/{number}.xml')
        parts['trainval'] = sorted(parts['train'] + parts['val'])
        for part, numbers in parts.items():
            if numbers:
                write_list(folder / f'ImageSets/Main/{part}.txt', numbers)
