"""What two streams, their alignment and DS-FPN do on real images, small enough for two CPU cores.

``python tools/claims/dsnet.py`` trains one small DS-Net with one stream, two, two aligned ones and a wider one in place
of the alignment, on photos of clothes and on pairs of digits (needs scikit-learn), and a small detector with FPN and
with DS-FPN, in two processes of one thread. It writes ``projects/dsnet/results/claims.json`` and ``claims.png``.
Finished arms are kept in the work folder, so that a run that was cut off goes on where it was. ``--quick`` only shows
that it runs.

A claim holds if its direction is right in every seed, is null if only the mean is right, and else does not hold.
"""

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path

import matplotlib
import torch
from dsnet_parts import classify, detect, pairs
from dsnet_parts.arms import ALIGNED, ARMS
from dsnet_parts.report import make_claims

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, markdown_table, origin, write_json

TASKS = dict(classify=list(ARMS), pairs=[arm for arm in ARMS if 'wider' not in arm], detect=list(detect.NECKS))
TITLES = dict(classify='photos, top-1, %', pairs='pairs of digits, top-1, %', detect='blood cells, AP50')


def run_arm(task: str, arm: str, seed: int, options: dict) -> dict:
    """Train and test an arm, or read what an earlier run found."""
    folder = Path(options['work_dir']) / f'{task}_{list(TASKS[task]).index(arm)}_{seed}'
    file = folder / 'result.json'
    if file.is_file():
        return json.loads(file.read_text())
    torch.set_num_threads(1)
    start, cpu = time.time(), time.process_time()
    if task == 'classify':
        chosen = {key: options[key] for key in ('size', 'epochs', 'limit')}
        result = classify.train(arm, seed, Path(options['data']), **chosen)
    elif task == 'pairs':
        result = pairs.train(arm, seed, options['pairs'], options['pair_epochs'])
    else:
        configs, images = ROOT / 'configs/dsnet', options['detection_images']
        result = detect.train(arm, seed, configs, options['detection_epochs'], folder, images)
    result.update(seconds=time.time() - start, cpu_seconds=time.process_time() - cpu)
    write_json(file, result)
    print(f'{task}, {arm}, seed {seed}: {result["score"]:.3f}, {result["cpu_seconds"]:.0f} s', flush=True)
    return result


def draw(results: dict[str, dict[str, dict]], path: Path) -> None:
    """Scores of every arm and seed as dots, means as lines."""
    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3.4), layout='constrained', width_ratios=(2.5, 2.5, 1))
    for panel, (task, arms) in zip(panels, results.items(), strict=True):
        for place, (arm, found) in enumerate(arms.items()):
            values = [result['score'] for result in found.values()]
            color = 'tab:blue' if arm in (ALIGNED, 'DS-FPN') else 'tab:gray'
            panel.scatter([place] * len(values), values, color=color, s=18)
            panel.hlines(sum(values) / len(values), place - 0.25, place + 0.25, color=color)
        labels = [arm.replace(' (', '\n(').replace(', ', ',\n').replace('two streams', 'two\nstreams') for arm in arms]
        panel.set_xticks(range(len(arms)), labels, fontsize=8)
        panel.set_xlim(-0.5, len(arms) - 0.5)
        panel.set_title(TITLES[task], fontsize=10)
        panel.grid(axis='y', alpha=0.3)
    figure.savefig(path, dpi=72)
    pyplot.close(figure)


def main() -> None:
    """Run what is missing, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=ROOT / 'tests/data/clothing10', help='photos {train,val}/<class>/')
    parser.add_argument('--size', type=int, default=48, help='side of the photos in pixels (default 48)')
    parser.add_argument('--epochs', type=int, default=12, help='on photos (default 12)')
    parser.add_argument('--limit', type=int, help='photos a class; default all')
    parser.add_argument('--pairs', type=int, default=3000, help='of digits for training (default 3000)')
    parser.add_argument('--pair-epochs', type=int, default=6, help='on pairs (default 6)')
    parser.add_argument('--detection-epochs', type=int, default=6, help='of detection (default 6, as the configs)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='of photos and pairs')
    parser.add_argument('--detection-seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/claims_dsnet')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/dsnet/results', help='folder of the results')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--quick', action='store_true', help='a few images, one epoch; numbers mean nothing')
    args = parser.parse_args()
    options = dict(vars(args), detection_images=None)
    if args.quick:
        small = dict(epochs=1, limit=3, size=32, pairs=20, pair_epochs=1, detection_epochs=1, detection_images=4)
        options.update(small, work_dir=args.work_dir / 'quick')
    start = time.time()
    seeds = dict(classify=args.seeds, detect=args.detection_seeds, pairs=args.seeds)
    jobs = [(task, arm, seed, options) for task in seeds for seed in seeds[task] for arm in TASKS[task]]
    with multiprocessing.get_context('spawn').Pool(args.processes) as pool:
        found = pool.starmap(run_arm, jobs, chunksize=1)
    results: dict[str, dict] = {task: {arm: {} for arm in arms} for task, arms in TASKS.items()}
    for (task, arm, seed, _), result in zip(jobs, found, strict=True):
        results[task][arm][seed] = result
    # Of the whole experiment, also of arms that an earlier run finished.
    seconds = max(time.time() - start, sum(result['seconds'] for result in found) / args.processes)
    claims = [
        {**claim, **origin(seconds, 'onedl-mmpretrain', 'scikit-learn')} for claim in make_claims(**results)
    ]  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / 'claims.json', claims)
    draw(results, args.out / 'claims.png')
    for claim in claims:
        print(f'\n{claim["claim"]}\nexpected: {claim["expected"]}\nholds: {claim["holds"]}')
        columns = ('name', 'metric', 'mean', 'std')
        print(markdown_table(columns, [[arm[column] for column in columns] for arm in claim['arms']]))
    cpu = sum(result['cpu_seconds'] for result in found)
    print(f'\nwritten to {args.out}; {seconds:.0f} s, {cpu:.0f} s of processor time, seeds {args.seeds}')


if __name__ == '__main__':
    main()
