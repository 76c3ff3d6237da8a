"""Speed of refinement and of the heads against ensemble-boxes on the same boxes, and memory at the size of COCO val.

The boxes are those of ``data.py``, of 2, 4 and 6 detectors. ensemble-boxes works image by image, ours on all images at
once. Both get scores that differ, because the packages order equal scores differently. What is timed on both sides is
fusion from arrays to arrays; splitting into images and scaling to [0, 1], which ensemble-boxes needs, is not timed.

The large case runs ``apply`` in a fresh process on files of random boxes, 5,000 images and two times 500,000 boxes, 80
classes; its time is wall-clock, its memory the high-water mark, reading and writing included.
"""

import json
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope

from experiments import ROOT
from experiments.frame import measure
from experiments.frame.benchmark import Benchmark, Bound, Case, Measured, Options, ratio
from experiments.prae.data import DATA, DETECTORS, load
from mmplugins.prae import Calibration, Dataset, Detections, GroundTruth, fit, fuse, fuse_config, save
from mmplugins.prae.__main__ import main
from mmplugins.prae.boxes.groups import group_bounds
from mmplugins.prae.boxes.tables import subset, subset_detections
from mmplugins.prae.files.coco import write_results
from mmplugins.prae.tuning.folds import pick

OURS, THEIRS = 'ours', 'ensemble-boxes'
HEADS = dict(nms=0.5, wbf=0.55)  # IoU thresholds
LARGE = 'apply'


def by_image(tables: list[Detections], sizes: np.ndarray) -> list[tuple[list, list, list]]:
    """What ensemble-boxes takes: of each image, boxes in [0, 1], scores and labels of the detectors that have any."""
    images: list[tuple[list, list, list]] = [([], [], []) for _ in sizes]
    for table in tables:
        starts, lengths = group_bounds(table.image)
        for start, length in zip(starts, lengths, strict=True):
            rows = slice(start, start + length)
            image = images[table.image[start]]
            scale = np.tile(sizes[table.image[start]], 2)
            image[0].append(table.box[rows] / scale)
            image[1].append(table.score[rows])
            image[2].append(table.category[rows])
    return images


def apart(table: Detections) -> Detections:
    """The same boxes with scores that all differ, by less than 1e-6."""
    rank = np.random.default_rng(len(table)).permutation(len(table))
    return table.with_scores(np.clip(table.score, 0, 0.999) + 1e-11 * rank)


def head_arms(
    tables: list[Detections], data: Dataset, images: list[tuple[list, list, list]], head: str
) -> dict[str, Callable]:
    """Fusion of all images by ours and by ensemble-boxes; ``images`` without empty ones."""
    from ensemble_boxes import nms, weighted_boxes_fusion

    warnings.filterwarnings('ignore', message='Zero area|X2|Y2|X1|Y1')  # of ensemble-boxes, one for each box
    raw = Calibration.identity([str(n) for n in range(len(tables))], data.classes)
    iou_thr = HEADS[head]
    cfg = fuse_config(head=head, iou_thr=iou_thr, max_per_img=10**6, reset_weights=head == 'wbf', known_only=False)

    def theirs() -> list[tuple]:
        if head == 'nms':
            return [nms(*image, iou_thr=iou_thr) for image in images]
        return [weighted_boxes_fusion(*image, weights=[1] * len(image[0]), iou_thr=iou_thr) for image in images]

    return {OURS: lambda: fuse(tables, raw, cfg), THEIRS: theirs}


def problems(options: Options) -> Iterator[tuple[str, Dataset, list, dict[str, Callable]]]:
    """Name, images, what ensemble-boxes takes of each image, and arms; each head, each number of detectors."""
    gt, tables = pick(*load(options.data), np.arange(20 if options.quick else 500))
    for count in (2,) if options.quick else (2, 4, 6):
        part = [apart(tables[name]) for name in DETECTORS[:count]]
        images = by_image(part, gt.dataset.sizes)
        for head in HEADS:
            arms = head_arms(part, gt.dataset, [image for image in images if image[0]], head)
            yield f'{head}, {count} detectors, {sum(map(len, part)):,} boxes', gt.dataset, images, arms


def check(options: Options) -> None:
    """Compare boxes (in [0, 1]) and scores of both.

    Raises:
        AssertionError: They differ by more than 1e-5, or an image has another number of boxes.
    """
    for name, data, images, arms in problems(options):
        out, expected = arms[OURS](), arms[THEIRS]()
        numbers = [number for number, image in enumerate(images) if image[0]]
        bounds = np.searchsorted(out.image, np.arange(len(images) + 1))
        for number, (box, score, label) in zip(numbers, expected, strict=True):
            mine = out.select(slice(bounds[number], bounds[number + 1]))
            scaled = mine.box / np.tile(data.sizes[number], 2)
            # Scores of fused boxes can be equal: order by class, score and place on both sides.
            a = np.lexsort((scaled[:, 0].round(4), mine.score.round(6), mine.category))
            b = np.lexsort((box[:, 0].round(4), score.round(6), label))
            for found, wanted in ((mine.score[a], score[b]), (scaled[a], box[b])):
                np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=f'{name}, image {number}')


def random_boxes(rng: np.random.Generator, num_images: int, per_image: int, num_classes: int) -> Detections:
    """Boxes in images of 640 x 480, some of them close to each other."""
    count = num_images * per_image
    corner = rng.uniform(0, [500, 360], (count, 2)).round(-1) + rng.normal(0, 3, (count, 2))
    box = np.concatenate([corner, corner + rng.uniform(20, 140, (count, 2))], axis=1)
    image = np.repeat(np.arange(num_images), per_image)
    return Detections.make(image, rng.integers(0, num_classes, count), rng.random(count), box)


def write_large(folder: Path, num: int) -> None:
    """Annotations of ``num`` images, two files of 100 boxes an image, and curves fitted on a tenth of the images."""
    rng = np.random.default_rng(0)
    classes = tuple(f'class {n}' for n in range(80))
    data = Dataset(
        tuple(range(1, num + 1)), tuple(f'{n}.jpg' for n in range(num)), np.tile([640.0, 480.0], (num, 1)), classes,
        tuple(range(1, 81)),
    )  # fmt: skip
    tables = {name: random_boxes(rng, num, 100, 80) for name in 'ab'}
    images = [dict(id=n, file_name=f'{n}.jpg', width=640, height=480) for n in data.image_ids]
    categories = [dict(id=n, name=name) for n, name in zip(data.category_ids, classes, strict=True)]
    (folder / 'test.json').write_text(json.dumps(dict(images=images, categories=categories)))
    few = np.arange(num // 10)
    part = tables['a'].select(np.flatnonzero(tables['a'].image < len(few))[::20])
    flags = np.zeros(len(part), dtype=bool)
    gt = subset(GroundTruth(data, part.image, part.category, part.box, flags, flags), few)
    save(fit({name: subset_detections(t, few, num) for name, t in tables.items()}, gt), folder / 'calib.json')
    for name, table in tables.items():
        write_results(table, data, folder / f'{name}.bbox.json')


def apply_files(folder: str) -> int:
    """Fuse what `write_large` wrote; the most memory that this process had."""
    inputs = [word for name in 'ab' for word in ('--det', f'{name}={folder}/{name}.bbox.json')]
    command = ['apply', f'{folder}/calib.json', '--ann', f'{folder}/test.json', *inputs, '-o', f'{folder}/fused.json']
    if status := main(command):
        raise RuntimeError(f'apply ended with {status}')
    return measure.resident('VmHWM')


def apply_large(num: int) -> dict[str, float]:
    """Seconds and peak memory of ``apply`` in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        write_large(Path(folder), num)
        start = time.time()
        # Not by the system's account of its children: a child that Python starts inherits the peak of its parent there.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
            peak = pool.submit(apply_files, folder).result()
        return dict(seconds=time.time() - start, peak=peak)


def cases(options: Options) -> Iterator[Case]:
    """The large case, both heads, refinement, the fit, and one image as `EnsembleDetector` fuses it."""
    num = 50 if options.quick else 5000
    name = f'{LARGE}, {num:,} images, {200 * num:,} boxes, wall-clock time'
    yield Case(name, {}, OURS, given={OURS: apply_large(num)})
    for name, _, _, arms in problems(options):
        yield Case(name, arms, THEIRS, repeats=3, count=False)

    gt, tables = load(options.data)
    calib, total = fit(tables, gt), sum(map(len, tables.values()))

    def refine() -> None:
        for number, table in enumerate(tables.values()):
            calib.refine(number, table.score, table.category)

    yield Case(f'refinement, {total:,} boxes', {OURS: refine}, OURS, count=False)
    first = {DETECTORS[0]: tables[DETECTORS[0]]}
    for part in (first, tables):
        name = f'fit, {sum(map(len, part.values())):,} boxes on {len(gt.dataset):,} images'
        yield Case(name, {OURS: lambda part=part: fit(part, gt)}, OURS, repeats=3, count=False)
    rng = np.random.default_rng(0)
    pair, raw = (
        [random_boxes(rng, 1, 300, 80) for _ in range(2)],
        Calibration.identity('ab', [str(n) for n in range(80)]),
    )
    for head in HEADS:
        call = {OURS: lambda head=head: fuse(pair, raw, fuse_config(head=head))}
        yield Case(f'one image, 2 x 300 boxes, {head}', call, OURS, repeats=30, count=False)
    yield Case('EnsembleDetector of two small detectors, one picture', ensemble_arms(), OURS, repeats=10, count=False)


def ensemble_arms() -> dict[str, Callable]:
    """One picture through `EnsembleDetector`, and through each of its members alone, from pixels to boxes."""
    init_default_scope('mmdet')
    names = ('fcos', 'retinanet')
    detectors = [
        dict(
            name=name,
            config=str(ROOT / f'configs/prae/{name}_r18-w16_1xb8-12e_bccd.py'),
            checkpoint=str(ROOT / f'tests/data/prae/{name}.pth'),
        )
        for name in names
    ]
    cfg = dict(type='EnsembleDetector', detectors=detectors, fusion=dict(type='PRAEFusion'), share_inputs=True)
    model = MODELS.build(cfg).eval()
    meta = dict(ori_shape=(240, 320), img_shape=(192, 256), scale_factor=(0.8, 0.8), batch_input_shape=(192, 256))
    picture = torch.randint(0, 255, (3, 192, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def data() -> dict:
        return dict(inputs=[picture], data_samples=[DetDataSample(metainfo=meta)])

    model.test_step(data())  # loads the members
    members = {
        name: lambda member=member: member.test_step(data()) for name, member in zip(names, model.members, strict=True)
    }
    return {OURS: lambda: model.test_step(data()), **{f'{name} alone': call for name, call in members.items()}}


def bounds(measured: Measured) -> list[Bound]:
    """Both heads against ensemble-boxes, and memory."""
    limits = dict(
        nms=(2, 'one call for all images and classes; ensemble-boxes makes one for each class of each image'),
        wbf=(4, 'the interpreter takes some steps for many images; that of ensemble-boxes takes some for each box'),
    )
    found = []
    for case in measured:
        kind = case.partition(',')[0]
        if kind == LARGE:
            reason = 'counted in bytes: the imports, and the boxes as they are read, fused and written'
            found.append(Bound(f'{case}: peak, GB', measured[case][OURS]['peak'] / 1e9, 2.0, reason))
        elif kind in limits:
            value = ratio(measured, case, THEIRS, OURS, 'seconds')
            found.append(Bound(f'{case}: time of ensemble-boxes over ours', value, *limits[kind], '>='))
    return found


BENCHMARK = Benchmark(
    cases=cases,
    bounds=bounds,
    check=check,
    data=DATA,
    devices=('cpu',),
    packages=('ensemble-boxes', 'numba'),
)
