"""Speed of refinement and of the heads against ensemble-boxes on the same boxes, and memory at the size of COCO val.

``python tools/benchmarks/prae.py`` writes ``projects/prae/results/benchmark.json`` and prints a table.

The boxes are those of real detectors on PASCAL VOC2007 test, 2, 4 and 6 of them; ``--data`` names the folder, see
``tools/claims/prae.py``. ensemble-boxes works image by image, ours on all images at once. Both get scores that differ
(equal ones are set apart by 1e-9), because the packages order equal scores differently. What is timed on both sides is
fusion from arrays to arrays; splitting into images and scaling to [0, 1], which ensemble-boxes needs, is not timed.

Time is processor time of this process, so others on the machine disturb it little; the packages take turns and the
median counts. The large case runs ``apply`` in a fresh process on files of random boxes, 5,000 images and two times
500,000 boxes, 80 classes; its time is wall-clock, its memory the high-water mark, reading and writing included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from mmplugins.prae import Calibration, Dataset, Detections, GroundTruth, fit, fuse, fuse_config, save
from mmplugins.prae.boxes.groups import group_bounds
from mmplugins.prae.boxes.tables import subset, subset_detections
from mmplugins.prae.files.coco import write_results
from mmplugins.prae.files.inputs import read_annotations, read_detections

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, markdown_table, origin, write_json

DETECTORS = (
    'yolov2_darknet', 'two_stage', 'yolov2_pytorch', 'yolov3_darknet', 'tiny_yolo_darknet', 'tiny_yolo_caffe',
)  # fmt: skip
BOUNDS = dict(refine=2e6, nms=2.0, wbf=4.0, difference=1e-5, fit_seconds=5.0, large_seconds=60.0, large_gb=2.0)


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


def cpu_seconds(function: Callable) -> float:
    """Processor time of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def interleaved(arms: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Median seconds of each arm; the arms take turns."""
    times = [{name: cpu_seconds(function) for name, function in arms.items()} for _ in range(repeats)]
    return {name: median(run[name] for run in times) for name in arms}


def bench_heads(tables: list[Detections], data: Dataset, repeats: int) -> dict:
    """Both heads on the boxes of all images."""
    from ensemble_boxes import nms, weighted_boxes_fusion

    raw = Calibration.identity([str(n) for n in range(len(tables))], data.classes)
    images, boxes = by_image(tables, data.sizes), sum(map(len, tables))
    full = [image for image in images if image[0]]
    weights = {number: [1] * number for number in range(1, len(tables) + 1)}
    theirs = {
        'nms': lambda: [nms(*image, iou_thr=0.5) for image in full],
        'wbf': lambda: [weighted_boxes_fusion(*image, weights=weights[len(image[0])], iou_thr=0.55) for image in full],
    }
    found = {}
    for head, iou_thr in (('nms', 0.5), ('wbf', 0.55)):
        cfg = fuse_config(head=head, iou_thr=iou_thr, max_per_img=10**6, reset_weights=head == 'wbf', known_only=False)
        arms = dict(ours=lambda cfg=cfg: fuse(tables, raw, cfg), theirs=theirs[head])
        out, expected = arms['ours'](), arms['theirs']()  # also compiles their numba code
        found[head] = dict(boxes=boxes, **difference(out, expected, images, data.sizes))
        seconds = interleaved(arms, repeats)
        found[head].update(
            boxes_per_second={name: round(boxes / value) for name, value in seconds.items()},
            ratio=round(seconds['theirs'] / seconds['ours'], 2),
        )
    return found


def difference(out: Detections, expected: list, images: list, sizes: np.ndarray) -> dict:
    """Largest difference of boxes (in [0, 1]) and scores, and images where the number of boxes differs."""
    numbers = [number for number, image in enumerate(images) if image[0]]
    bounds = np.searchsorted(out.image, np.arange(len(sizes) + 1))
    largest, uneven = 0.0, 0
    for number, (box, score, label) in zip(numbers, expected, strict=True):
        mine = out.select(slice(bounds[number], bounds[number + 1]))
        if len(mine) != len(score):
            uneven += 1
            continue
        # Scores of fused boxes can be equal: order by class, score and place on both sides.
        scaled = mine.box / np.tile(sizes[number], 2)
        a = np.lexsort((scaled[:, 0].round(4), mine.score.round(6), mine.category))
        b = np.lexsort((box[:, 0].round(4), score.round(6), label))
        largest = max(largest, np.abs(mine.score[a] - score[b]).max(), np.abs(scaled[a] - box[b]).max())
    return dict(max_difference=float(largest), uneven_images=uneven)


def bench_refine(tables: dict[str, Detections], gt: GroundTruth, repeats: int) -> dict:
    """Refinement of all boxes, and the fit."""
    start = time.process_time()
    calib = fit(tables, gt)
    fit_seconds = time.process_time() - start
    boxes = sum(map(len, tables.values()))

    def refine() -> None:
        for number, table in enumerate(tables.values()):
            calib.refine(number, table.score, table.category)

    seconds = median(cpu_seconds(refine) for _ in range(max(repeats, 5)))
    first = next(iter(tables.values()))
    start = time.process_time()
    fit({'one': first}, gt)
    one = time.process_time() - start
    return dict(
        boxes=boxes,
        boxes_per_second=round(boxes / seconds),
        fit_seconds=round(fit_seconds, 2),
        fit_one=dict(boxes=len(first), images=len(gt.dataset), seconds=round(one, 2)),
    )


def bench_image(repeats: int) -> dict:
    """Fusion of one image with 2 x 300 boxes of 80 classes, as EnsembleDetector does it."""
    rng = np.random.default_rng(0)
    tables = [random_boxes(rng, 1, 300, 80) for _ in range(2)]
    raw = Calibration.identity('ab', [str(n) for n in range(80)])
    seconds = {
        head: median(
            cpu_seconds(lambda head=head: fuse(tables, raw, fuse_config(head=head))) for _ in range(10 * repeats)
        )
        for head in ('nms', 'wbf')
    }
    return {head: round(1000 * value, 2) for head, value in seconds.items()}


def random_boxes(rng: np.random.Generator, num_images: int, per_image: int, num_classes: int) -> Detections:
    """Boxes in images of 640 x 480, some of them close to each other."""
    count = num_images * per_image
    corner = rng.uniform(0, [500, 360], (count, 2)).round(-1) + rng.normal(0, 3, (count, 2))
    box = np.concatenate([corner, corner + rng.uniform(20, 140, (count, 2))], axis=1)
    image = np.repeat(np.arange(num_images), per_image)
    return Detections.make(image, rng.integers(0, num_classes, count), rng.random(count), box)


def bench_large() -> dict:
    """Write two files of 500,000 boxes, then apply a calibration in a fresh process."""
    rng = np.random.default_rng(0)
    num, classes = 5000, tuple(f'class {n}' for n in range(80))
    data = Dataset(
        tuple(range(1, num + 1)), tuple(f'{n}.jpg' for n in range(num)), np.tile([640.0, 480.0], (num, 1)), classes,
        tuple(range(1, 81)),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        tables = {name: random_boxes(rng, num, 100, 80) for name in 'ab'}
        images = [dict(id=n, file_name=f'{n}.jpg', width=640, height=480) for n in data.image_ids]
        categories = [dict(id=n, name=name) for n, name in zip(data.category_ids, classes, strict=True)]
        (path / 'test.json').write_text(json.dumps(dict(images=images, categories=categories)))
        few = np.arange(500)
        part = tables['a'].select(np.flatnonzero(tables['a'].image < 500)[::20])
        flags = np.zeros(len(part), dtype=bool)
        gt = subset(GroundTruth(data, part.image, part.category, part.box, flags, flags), few)
        save(fit({name: subset_detections(t, few, num) for name, t in tables.items()}, gt), path / 'calib.json')
        for name, table in tables.items():
            write_results(table, data, path / f'{name}.bbox.json')
        command = [
            sys.executable, '-m', 'mmplugins.prae', 'apply', 'calib.json', '--ann', 'test.json',
            '--det', 'a=a.bbox.json', '--det', 'b=b.bbox.json', '-o', 'fused.json',
        ]  # fmt: skip
        start = time.time()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.time() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return dict(
        images=num, boxes=sum(map(len, tables.values())), seconds=round(seconds, 1), peak_gb=round(peak / 1e9, 2)
    )


def table_of(data: dict) -> str:
    """The table for the README."""
    refine, large = data['refine'], data['large']
    fit_one = refine['fit_one']
    rows = [('refinement', f'{refine["boxes_per_second"] / 1e6:.1f} M boxes/s', '–', '–', '≥ 2 M boxes/s')]
    for count, heads in data['heads'].items():
        for head, value in heads.items():
            ours, theirs = (f'{value["boxes_per_second"][arm] / 1000:.0f} k boxes/s' for arm in ('ours', 'theirs'))
            rows.append((f'{head}, {count} detectors', ours, theirs, f'{value["ratio"]:.1f}', f'≥ {BOUNDS[head]:.0f}'))
    what = f'fit, {fit_one["boxes"] // 1000} k boxes on {fit_one["images"]} images'
    rows.append((what, f'{fit_one["seconds"]:.1f} s', '–', '–', '< 5 s'))
    what = f'apply, {large["images"]} images, {large["boxes"] // 1000} k boxes'
    rows.append((what, f'{large["seconds"]:.0f} s, {large["peak_gb"]:.1f} GB', '–', '–', '< 60 s, < 2 GB'))
    image = data['image_ms']
    what = 'one image, 2 x 300 boxes, nms / wbf'
    rows.append((what, f'{image["nms"]:.1f} / {image["wbf"]:.1f} ms', '–', '–', '< 5 ms'))
    return markdown_table(('what', 'ours', 'ensemble-boxes', 'ratio', 'bound'), rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--data', type=Path, default=ROOT.parent / 'shared/data/detections', help='see the top of the file'
    )
    parser.add_argument('--images', type=int, default=500, help='of VOC2007 test, for the heads (default 500)')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/prae/results/benchmark.json')
    args = parser.parse_args()
    folder = args.data / 'voc2007_test'
    if not folder.is_dir():
        raise SystemExit(f'{folder} does not exist: name the folder of the detections with --data, see --help')
    warnings.filterwarnings('ignore', message='Zero area|X2|Y2|X1|Y1')  # of ensemble-boxes, one for each box
    start = time.time()
    large = bench_large()  # first: ru_maxrss of children is the highest of all
    gt = read_annotations(folder / 'gt.json.gz')
    num, few = len(gt.dataset), np.arange(args.images)
    whole = {name: read_detections(folder / f'{name}.bbox.json.gz', gt.dataset, name) for name in DETECTORS}
    part = {name: apart(subset_detections(table, few, num)) for name, table in whole.items()}
    data = subset(gt, few).dataset
    heads = {count: bench_heads([part[name] for name in DETECTORS[:count]], data, args.repeats) for count in (2, 4, 6)}
    results = dict(
        refine=bench_refine(whole, gt, args.repeats), heads=heads, image_ms=bench_image(args.repeats), large=large
    )
    where = origin(time.time() - start, 'ensemble-boxes', 'numba')
    if args.data != parser.get_default('data'):
        where['command'] = 'python tools/benchmarks/prae.py --data <folder>'
    results['table'] = table_of(results)
    results.update(bounds=BOUNDS, threads=os.environ.get('OMP_NUM_THREADS', 'default'), images=args.images, **where)
    write_json(args.out, results)
    print(results['table'])
    print(f'written to {args.out}; {results["seconds"]} s')


def apart(table: Detections) -> Detections:
    """The same boxes with scores that all differ, by less than 1e-6."""
    rank = np.empty(len(table))
    rank[np.random.default_rng(len(table)).permutation(len(table))] = np.arange(len(table))
    return table.with_scores(np.clip(table.score, 0, 0.999) + 1e-11 * rank)


if __name__ == '__main__':
    main()
