"""What SPSA does and does not do, on real images, small enough for two CPU cores.

``python tools/claims/spsa.py`` trains a small network with different mixers on the photos of clothes, and a small
detector with and without SPSA on the blood cells, in two processes of one thread; compares the layer with exact
attention; and writes ``projects/spsa/results/claims.json``, ``claims.png`` and ``maps.png``. Finished arms are
kept in the work folder, so that a run that was cut off goes on where it was. ``--quick`` only shows that it runs.

A claim holds if its direction is right in every seed, is null if only the mean is right, and else does not hold. For
classification of your own: ``--data <folder> --size 32`` with images in ``{train,val}/<class>/``, of CIFAR-10 say, and
``--out <folder>``.
"""

import argparse
import json
import math
import multiprocessing
import sys
import time
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from spsa_parts import approximate, classify, detect
from spsa_parts.report import make_claims
from torch import Tensor

from mmplugins.spsa import spsa_agg, spsa_gate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, interleaved, markdown_table, origin, write_json

CONFIG = ROOT / 'configs/spsa/fcos_spsanet-micro_1xb8-12e_bccd.py'


def run_arm(task: str, mixer: str, seed: int, options: dict) -> dict:
    """Train and test an arm, or read what an earlier run found."""
    folder = Path(options['work_dir']) / f'{task}_{mixer.replace(" ", "-")}_{seed}'
    file = folder / 'result.json'
    if file.is_file():
        return json.loads(file.read_text())
    torch.set_num_threads(1)
    start, cpu = time.time(), time.process_time()
    if task == 'classify':
        chosen = {key: options[key] for key in ('size', 'epochs', 'limit')}
        result = classify.train(mixer, seed, Path(options['data']), **chosen)
    else:
        result = detect.train(mixer, seed, CONFIG, options['detection_epochs'], folder, options['detection_images'])
    result.update(seconds=time.time() - start, cpu_seconds=time.process_time() - cpu)
    write_json(file, result)
    print(
        f'{task}, {mixer}, seed {seed}: {result.get("top1", result.get("ap50")):.3f}, {result["seconds"]:.0f} s',
        flush=True,
    )
    return result


def attention(x: Tensor) -> Tensor:
    """Fused softmax attention of ``(B, 64, H, W)`` without projections, four heads."""
    t = x.flatten(2).unflatten(1, (4, -1)).transpose(-1, -2).contiguous()  # the fused kernel takes nothing else
    return F.scaled_dot_product_attention(t, t, t)


@torch.no_grad()
def slopes(largest: int) -> dict[str, float]:
    """Exponent of processor time over tokens, from 784 tokens on."""
    found = {}
    for name, function, last in (
        ('SPSA gate', lambda x: spsa_gate(x, 4), largest),
        ('SPSA agg', lambda x: spsa_agg(x, 4), largest),
        ('softmax attention', attention, min(largest, 56)),
    ):
        seconds = {}
        for side in (28, last):
            x = torch.randn(1, 64, side, side)
            function(x)
            # Many small calls in one measurement: the clock of a process is coarse.
            calls = max(1, 40 * 784 // side**2)
            arm = {'': lambda x=x, f=function, n=calls: [f(x) for _ in range(n)]}
            seconds[side] = interleaved(arm, 7, 'cpu')[''] / calls
        found[name] = math.log(seconds[last] / seconds[28]) / math.log(last**2 / 784)
    return found


def draw_claims(results: dict[str, dict[str, dict]], path: Path) -> None:
    """Top-1 and AP50 of every arm and seed as dots, means as lines."""
    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.2), layout='constrained', width_ratios=(3, 1.4))
    for panel, (task, key, label) in zip(
        panels, (('classify', 'top1', 'top-1, %'), ('detect', 'ap50', 'AP50')), strict=True
    ):
        for place, found in enumerate(results[task].values()):
            values = [result[key] for result in found.values()]
            color = 'tab:gray' if place == 0 else 'tab:blue' if 'SPSA' in list(results[task])[place] else 'tab:orange'
            panel.scatter([place] * len(values), values, color=color, s=18)
            panel.hlines(sum(values) / len(values), place - 0.25, place + 0.25, color=color)
        names = [name.replace(' + ', '\n+ ') for name in results[task]]
        panel.set_xticks(range(len(names)), names, fontsize=8)
        panel.set_ylabel(label)
        panel.grid(axis='y', alpha=0.3)
    panels[0].set_title('classification', fontsize=10)
    panels[1].set_title('detection', fontsize=10)
    figure.savefig(path, dpi=72)
    pyplot.close(figure)


def draw_maps(data: Path, size: int, path: Path) -> None:
    """What the gate looks at, beside the attention that each token receives in exact attention."""
    matplotlib.use('Agg')
    from matplotlib import pyplot

    rows = approximate.maps(data, size)
    titles = (
        'image',
        'SPSA: correlation\nwith the mean token',
        'received attention,\ncorrelations',
        'received attention,\ndot products',
    )
    figure, panels = pyplot.subplots(4, len(rows), figsize=(1.5 * len(rows) + 1.4, 6), layout='constrained')
    for column, (image, rho, received) in enumerate(rows):
        picture = image.permute(1, 2, 0)
        picture = (picture - picture.min()) / (picture.max() - picture.min())
        for panel, title, content in zip(panels[:, column], titles, (picture, rho, *received), strict=True):
            panel.imshow(content.numpy(), cmap='viridis')
            panel.set_xticks([])
            panel.set_yticks([])
            if column == 0:
                panel.set_ylabel(title, fontsize=8, rotation=0, ha='right', va='center')
    figure.savefig(path, dpi=72)
    pyplot.close(figure)


def main() -> None:
    """Run what is missing, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=ROOT / 'tests/data/clothing10', help='images {train,val}/<class>/')
    parser.add_argument('--size', type=int, default=48, help='side in pixels (default 48)')
    parser.add_argument('--epochs', type=int, default=25, help='of classification (default 25)')
    parser.add_argument('--limit', type=int, help='images a class; default all')
    parser.add_argument('--detection-epochs', type=int, default=6, help='of detection (default 6)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4], help='of classification')
    parser.add_argument('--detection-seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/claims_spsa')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/spsa/results', help='folder of the results')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--quick', action='store_true', help='a few images, one epoch; numbers mean nothing')
    args = parser.parse_args()
    options = dict(vars(args), detection_images=None)
    if args.quick:
        work = args.work_dir / 'quick'
        options.update(epochs=1, limit=3, detection_epochs=1, detection_images=4, size=32, work_dir=work)
    start = time.time()
    # The long ones first.
    jobs = [('detect', mixer, seed, options) for seed in args.detection_seeds for mixer in detect.MIXERS]
    jobs += [('classify', mixer, seed, options) for seed in args.seeds for mixer in reversed(classify.MIXERS)]
    if args.processes == 1:
        found = [run_arm(*job) for job in jobs]  # another process would import everything again
    else:
        with multiprocessing.get_context('spawn').Pool(args.processes) as pool:
            found = pool.starmap(run_arm, jobs, chunksize=1)
    results = {'classify': {name: {} for name in classify.MIXERS}, 'detect': {name: {} for name in detect.MIXERS}}
    for (task, mixer, seed, _), result in zip(jobs, found, strict=True):
        results[task][mixer][seed] = result
    near = approximate.measure(args.data / 'val', 64, 1 if args.quick else 6)
    grown = slopes(32 if args.quick else 112)
    # Of the whole experiment, also of arms that an earlier run finished.
    seconds = max(time.time() - start, sum(result['seconds'] for result in found) / args.processes)
    claims = make_claims(results['classify'], results['detect'], near, grown)
    claims = [{**claim, **origin(seconds, 'onedl-mmpretrain')} for claim in claims]
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / 'claims.json', claims)
    draw_claims(results, args.out / 'claims.png')
    draw_maps(args.data / 'val', 96, args.out / 'maps.png')
    for claim in claims:
        print(f'\n{claim["claim"]}\nexpected: {claim["expected"]}\nholds: {claim["holds"]}')
        columns = ('name', 'metric', 'mean', 'std')
        print(markdown_table(columns, [[arm[column] for column in columns] for arm in claim['arms']]))
    cpu = sum(result['cpu_seconds'] for result in found)
    print(f'\nwritten to {args.out}; {seconds:.0f} s, {cpu:.0f} s of processor time, seeds {args.seeds}')


if __name__ == '__main__':
    main()
