"""What a rank needs to start on an annotation file: time and memory, with and without a file of parsed samples."""

import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from experiments.frame import measure

BOXES_AN_IMAGE, NAMES = 12, 365  # of Objects365: 15 boxes an image


def write_json(path: Path, num_boxes: int) -> None:
    """Write a COCO file of random boxes, fields as in Objects365."""
    rng = np.random.default_rng(0)
    num_images = num_boxes // BOXES_AN_IMAGE
    images = [
        dict(id=i, file_name=f'images/v1/patch{i % 51}/objects365_v1_{i:08d}.jpg', width=1024, height=768)
        for i in range(num_images)
    ]
    boxes = np.concatenate([rng.uniform(0, 700, (num_boxes, 2)), rng.uniform(5, 300, (num_boxes, 2))], 1).round(3)
    labels = rng.integers(1, NAMES + 1, num_boxes).tolist()
    annotations = [
        dict(id=i, image_id=i % num_images, category_id=label, bbox=box, area=box[2] * box[3], iscrowd=0, isfake=0)
        for i, (box, label) in enumerate(zip(boxes.tolist(), labels, strict=True), start=1)
    ]
    categories = [dict(id=i, name=f'name {i}') for i in range(1, NAMES + 1)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def starts(num_boxes: int) -> dict[str, dict[str, float]]:
    """Seconds and bytes of each kind of rank, each in a process of its own.

    Args:
        num_boxes: Of the file.

    Returns:
        Of mmdet's data set, of the rank that writes the parsed samples, and of a further one.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'ann.json')
        write_json(path, num_boxes)
        kinds = dict(
            mmdet=('CocoDataset', None), first=('VocabCocoDataset', folder), further=('VocabCocoDataset', folder)
        )
        found = {}
        for name, (kind, cache_dir) in kinds.items():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
                found[name] = pool.submit(_start, kind, str(path), cache_dir).result()
    return found


def _start(kind: str, path: str, cache_dir: str | None) -> dict[str, float]:
    """Build a data set, read a thousand samples; seconds until it stands, and most memory over that before."""
    from mmdet.registry import DATASETS
    from mmdet.utils import register_all_modules

    import mmplugins.metr  # noqa: F401

    register_all_modules()
    names = tuple(f'name {i}' for i in range(1, NAMES + 1))
    cfg = dict(type=kind, ann_file=path, data_prefix=dict(img=''), metainfo=dict(classes=names))
    if cache_dir is not None:
        cfg['cache_dir'] = cache_dir
    before = measure.resident('VmRSS')
    start = time.process_time()  # as of all other cases: the machine is shared
    dataset = DATASETS.build(cfg)
    seconds = time.process_time() - start
    for index in np.random.default_rng(0).integers(0, len(dataset), 1000).tolist():
        dataset[index]
    return dict(seconds=seconds, peak=measure.resident('VmHWM') - before)
