"""Oriented boxes: DOTA-v1.0 (raw, patches, a data set of one's own in its format), HRSC2016, DIOR-R."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmrotate.datasets import DIORDataset, DOTADataset

from .pictures import oriented_corners, paint, random_oriented, save
from .voc import element, save_xml, start_xml, write_list

DOTA_HEADER = ('imagesource:GoogleEarth', 'gsd:0.146343590398')
DIOR_CORNERS = ('left_top', 'right_top', 'right_bottom', 'left_bottom')


def write_dota_pair(
    rng: np.random.Generator, image: Path, labels: Path, classes: tuple[str, ...], count: int, header: tuple = ()
) -> None:
    """Write a picture and its text file: eight numbers, class, difficulty on a line."""
    boxes = random_oriented(rng, (96, 96), count)
    polygons = [oriented_corners(box) for box in boxes]
    save(paint(rng, (96, 96), polygons), image)
    lines = [' '.join([*map(str, polygon), str(rng.choice(classes)), str(i % 2)]) for i, polygon in enumerate(polygons)]
    write_list(labels, [*header, *lines]) if lines or header else labels.touch()


def write_dota(root: Path) -> None:
    """Write the raw set: ``{train,val}/{images,labelTxt-v1.0}``, two header lines in each text, ``test/images``."""
    rng = np.random.default_rng(0)
    for part, numbers in (('train', (0, 1)), ('val', (3,)), ('test', (6,))):
        for number in numbers:
            image = root / part / f'images/P{number:04d}.png'
            if part == 'test':
                save(paint(rng, (128, 96)), image)
                continue
            text = root / part / f'labelTxt-v1.0/P{number:04d}.txt'
            write_dota_pair(rng, image, text, DOTADataset.METAINFO['classes'], 3, DOTA_HEADER)


def write_dota_patches(root: Path) -> None:
    """Write what the host's ``img_split.py`` makes: ``{train,val,trainval}/{images,annfiles}``, ``test/images``.

    Names say where a patch lies, ``P0000__1024__0___824``; patches without objects have an empty text file.
    """
    rng = np.random.default_rng(0)
    for part, first, count in (('train', 0, 5), ('val', 1, 3), ('trainval', 0, 6), ('test', 6, 3)):
        (root / part / 'annfiles').mkdir(parents=True)
        for i in range(count):
            name = f'P{first + 2 * (i // 3):04d}__1024__{824 * (i % 3)}___0'
            text = root / part / f'annfiles/{name}.txt'
            write_dota_pair(
                rng, root / part / f'images/{name}.png', text, DOTADataset.METAINFO['classes'], 0 if i == 1 else 4
            )


def write_custom(root: Path) -> None:
    """Write two classes of one's own in DOTA's format: ``{train,val}/{images,labelTxt}``."""
    rng = np.random.default_rng(0)
    for part in ('train', 'val'):
        (root / part / 'labelTxt').mkdir(parents=True)
        for i in range(4):
            write_dota_pair(
                rng, root / part / f'images/{i}.png', root / part / f'labelTxt/{i}.txt', ('plane', 'ship'), 2
            )


def write_hrsc(root: Path) -> None:
    """Write HRSC2016: ``FullDataSet/{AllImages/*.bmp,Annotations/*.xml}`` and ``ImageSets/*.txt``."""
    rng = np.random.default_rng(0)
    parts: dict[str, list[str]] = {'train': [], 'val': [], 'test': []}
    for i in range(8):
        number, size = f'{100000001 + i}', (96, 72)
        parts[('train', 'train', 'train', 'val', 'val', 'test', 'test', 'test')[i]].append(number)
        boxes = random_oriented(rng, size, 0 if i == 7 else 2)
        polygons = [oriented_corners(box) for box in boxes]
        save(paint(rng, size, polygons), root / f'FullDataSet/AllImages/{number}.bmp')
        xml = start_xml(f'{number}.bmp', size)
        xml.tag = 'HRSC_Image'
        xml.remove(xml.find('size'))
        for tag, value in zip(('Img_SizeWidth', 'Img_SizeHeight', 'Img_SizeDepth'), (*size, 3), strict=True):
            element(xml, tag, value)
        objects = element(xml, 'HRSC_Objects')
        for box, polygon in zip(boxes, polygons, strict=True):
            entry = element(objects, 'HRSC_Object')
            element(entry, 'Class_ID', 100000001 + int(rng.integers(30)))
            element(entry, 'difficult', 0)
            bounds = (min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2]))
            for tag, value in zip(('box_xmin', 'box_ymin', 'box_xmax', 'box_ymax'), bounds, strict=True):
                element(entry, tag, int(value))
            for tag, value in zip(('mbox_cx', 'mbox_cy', 'mbox_w', 'mbox_h', 'mbox_ang'), box, strict=True):
                element(entry, tag, round(float(value), 4))
            element(entry, 'header_x', int(polygon[0]))
            element(entry, 'header_y', int(polygon[1]))
        save_xml(xml, root / f'FullDataSet/Annotations/{number}.xml')
    parts['trainval'] = sorted(parts['train'] + parts['val'])
    for part, numbers in parts.items():
        write_list(root / f'ImageSets/{part}.txt', numbers)


def write_dior(root: Path) -> None:
    """Write DIOR-R: ``JPEGImages-{trainval,test}``, ``Annotations/Oriented Bounding Boxes``, ``ImageSets/Main``."""
    rng = np.random.default_rng(0)
    for part, first, count in (('train', 1, 4), ('val', 5, 2), ('test', 11726, 3)):
        numbers = [f'{first + i:05d}' for i in range(count)]
        for number in numbers:
            folder = 'JPEGImages-test' if part == 'test' else 'JPEGImages-trainval'
            polygons = [oriented_corners(box) for box in random_oriented(rng, (80, 80), 2)]
            save(paint(rng, (80, 80), polygons), root / folder / f'{number}.jpg')
            xml = start_xml(f'{number}.jpg', (80, 80))
            for polygon in polygons:
                entry = element(xml, 'object')
                # The published files spell some names with capitals.
                element(entry, 'name', str(rng.choice(DIORDataset.METAINFO['classes'])).capitalize())
                element(entry, 'difficult', 0)
                bounds = element(entry, 'robndbox')
                for corner, (x, y) in zip(DIOR_CORNERS, np.reshape(polygon, (4, 2)), strict=True):
                    element(bounds, f'x_{corner}', int(x))
                    element(bounds, f'y_{corner}', int(y))
            save_xml(xml, root / f'Annotations/Oriented Bounding Boxes/{number}.xml')
        write_list(root / f'ImageSets/Main/{part}.txt', numbers)
