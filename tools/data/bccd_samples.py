"""Make ``tests/data/bccd``: one real detection set turned into two that annotate different things.

    python tools/data/bccd_samples.py bccd_320.zip tests/data/bccd

The zip holds BCCD (github.com/Shenggan/BCCD_Dataset, MIT) scaled to 320x240, as COCO: ``bccd/{train,val}/*.jpg`` and
``bccd/annotations/{train,val}.json`` with the categories RBC, WBC, Platelets.

Images are split in two by position in the file, even and odd, so no image is in both sets. Each set keeps only the
boxes of its own two categories: in each of them the third kind of cell is visible but not annotated, which is the case
that a multi-dataset detector has to survive. White blood cells are in both, spelled differently.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path

# Set -> {category of the source: name}. The order is that of the categories in the json. In "platelets" it differs from
# the order in which the configs list the classes, as real files do.
SETS = {
    'cells': {'RBC': 'red blood cell', 'WBC': 'white blood cell'},
    'platelets': {'Platelets': 'platelets', 'WBC': 'White_Blood_Cell'},
    'all': {'RBC': 'red blood cell', 'WBC': 'white blood cell', 'Platelets': 'platelets'},
}
PARITY = {'cells': (0,), 'platelets': (1,), 'all': (0, 1)}  # which images, by position modulo 2


def subset(source: dict, renamed: dict[str, str], parity: tuple[int, ...]) -> dict:
    """Return a COCO dict with every image of the given parity and only the boxes of the renamed categories."""
    images = [image for position, image in enumerate(source['images']) if position % 2 in parity]
    source_name = {category['id']: category['name'] for category in source['categories']}
    new_id = {name: number for number, name in enumerate(renamed, start=1)}
    kept_images = {image['id'] for image in images}
    annotations = [
        {**annotation, 'category_id': new_id[source_name[annotation['category_id']]]}
        for annotation in source['annotations']
        if annotation['image_id'] in kept_images and source_name[annotation['category_id']] in renamed
    ]
    categories = [{'id': new_id[name], 'name': new_name} for name, new_name in renamed.items()]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def count_line(name: str, split: str, data: dict) -> str:
    """Return a row of the table in the README."""
    counts = [
        f'{category["name"]} {sum(a["category_id"] == category["id"] for a in data["annotations"])}'
        for category in data['categories']
    ]
    return f'| `annotations/{name}_{split}.json` | {len(data["images"])} | {", ".join(counts)} |'


def main() -> None:
    """Unpack the images as they are and write the six annotation files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('zip', type=Path, help='bccd_320.zip')
    parser.add_argument('out', type=Path, help='folder to write')
    args = parser.parse_args()
    (args.out / 'annotations').mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(args.zip) as archive:
        for split in ('train', 'val'):
            source = json.loads(archive.read(f'bccd/annotations/{split}.json'))
            (args.out / split).mkdir(exist_ok=True)
            for image in source['images']:
                content = archive.read(f'bccd/{split}/{image["file_name"]}')
                (args.out / split / image['file_name']).write_bytes(content)
            for name, renamed in SETS.items():
                data = subset(source, renamed, PARITY[name])
                text = json.dumps(data, separators=(',', ':'))
                (args.out / 'annotations' / f'{name}_{split}.json').write_text(text + '\n', encoding='utf-8')
                print(count_line(name, split, data))


if __name__ == '__main__':
    main()
