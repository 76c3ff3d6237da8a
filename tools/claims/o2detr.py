"""Claims of O²DETR (arXiv 2106.03146) on turned handwritten digits, small enough for two CPU cores.

``python tools/claims/o2detr.py`` makes the images, trains all arms in two processes of one thread, evaluates them with
mmrotate's ``DOTAMetric`` on 150 images, and writes ``projects/o2detr/results/claims.json`` and ``claims.png``. Finished
arms are kept in the work folder, so that a run that was cut off goes on where it was. ``--quick`` only shows that
everything runs. A claim holds if its direction is right in every seed.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import textwrap
import time
from pathlib import Path

import matplotlib
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from o2detr_parts.arms import ARMS, MORE_ITERS, arm_config
from o2detr_parts.claims import make_claims
from o2detr_parts.data import make_data
from o2detr_parts.measure import layer_costs, test

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, markdown_table, origin, write_json


def run_arm(name: str, seed: int, iters: int, work_dir: Path) -> dict:
    """Train and test an arm, or read what an earlier run found."""
    folder = work_dir / f'{name}_{seed}_{iters}'
    if (folder / 'result.json').is_file():
        return json.loads((folder / 'result.json').read_text())
    torch.set_num_threads(1)
    shutil.rmtree(folder, ignore_errors=True)
    base = ARMS[name].get('start')
    start = base and work_dir / f'{base}_{seed}_{iters}' / f'iter_{iters}.pth'
    steps = min(MORE_ITERS, iters) if base else iters
    began, cpu = time.time(), time.process_time()
    runner = Runner.from_cfg(arm_config(name, work_dir / 'data', folder, steps, seed, start))
    runner.train()
    result = test(runner)
    result.update(
        parameters=sum(p.numel() for p in runner.model.parameters()) / 1e6,
        seconds=time.time() - began,
        cpu_seconds=time.process_time() - cpu,
        iterations=steps,
    )
    write_json(folder / 'result.json', result)
    print(f'{name}, seed {seed}: AP50 {result["ap50"]:.3f}, {result["seconds"]:.0f} s', flush=True)
    return result


def run_chain(names: list[str], *args) -> dict[str, dict]:
    """Run arms one after another."""
    init_default_scope('mmrotate')
    return {name: run_arm(name, *args) for name in names}


def draw(claims: list[dict], path: Path) -> None:
    """One panel a claim: what it was judged by, the arms as bars; costs on a logarithmic scale."""
    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(15, 8), layout='constrained')
    for panel in panels.flat[len(claims) :]:
        panel.remove()
    for number, (claim, panel) in enumerate(zip(claims, panels.flat, strict=False), start=1):
        metric = claim['arms'][0]['metric']
        costs = number == 1
        arms = [arm for arm in claim['arms'] if ('D 256' in arm['metric'] if costs else arm['metric'] == metric)]
        arms = [arm for arm in arms if arm['mean'] is not None][::-1]
        names = [f'{arm["name"]}: {arm["metric"]}' if costs else textwrap.fill(arm['name'], 28) for arm in arms]
        colors = ['tab:orange' if arm['name'] != claim['arms'][0]['name'] else 'tab:blue' for arm in arms]
        bars = panel.barh(range(len(arms)), [a['mean'] for a in arms], xerr=[a['std'] or 0 for a in arms], color=colors)
        panel.bar_label(bars, fmt='%.3g', padding=3, fontsize=8)
        panel.set_yticks(range(len(arms)), names, fontsize=6 if costs else 8)
        largest = max(arm['mean'] + (arm['std'] or 0) for arm in arms)
        if costs:
            panel.set_xscale('log')
        panel.set_xlim(right=largest * (10 if costs else 1.25))
        answer = {True: 'holds', False: 'does not hold', None: 'undecided'}[claim['holds']]
        panel.set_title(f'claim {number}: {answer}' + ('' if costs else f'\n{metric}'), fontsize=10)
    figure.savefig(path, dpi=72)
    pyplot.close(figure)


def main() -> None:
    """Run what is missing, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iters', type=int, default=500, help='iterations of a full arm (default 500)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/claims_o2detr')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/o2detr/results', help='folder of the results')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--quick', action='store_true', help='three iterations on a few images; numbers mean nothing')
    args = parser.parse_args()
    if args.quick:
        args.iters, args.work_dir = 3, args.work_dir / 'quick'
    start = time.time()
    make_data(args.work_dir / 'data', ROOT / 'tests/data/clothing10', scale=0.02 if args.quick else 1.0)
    # An arm that starts from another's weights runs behind it in the same process.
    chains = [[name, *(n for n in ARMS if ARMS[n].get('start') == name)] for name in ARMS if 'start' not in ARMS[name]]
    jobs = [(chain, seed, args.iters, args.work_dir) for seed in args.seeds for chain in chains]
    with multiprocessing.get_context('spawn').Pool(args.processes) as pool:
        found = pool.starmap(run_chain, jobs, chunksize=1)
    results: dict[str, dict[int, dict]] = {}
    for (_, seed, *_), chain in zip(jobs, found, strict=True):
        for name, result in chain.items():
            results.setdefault(name, {})[seed] = result
    every = [result for arm in results.values() for result in arm.values()]
    torch.set_num_threads(1)
    costs = {
        f'{kind}, D {dims}, {side}': layer_costs(dims, side, kind)
        for dims in (64, 256)
        for side in ((256,) if args.quick else (256, 512, 1024))
        for kind in ('dwsep', 'deformable', 'dense')
    }
    # Of the whole experiment, also of arms that an earlier run finished.
    seconds = max(time.time() - start, sum(result['seconds'] for result in every) / args.processes)
    versions = ('onedl-mmrotate', 'scikit-learn')
    claims = [{**claim, **origin(seconds, *versions)} for claim in make_claims(results, costs)]
    write_json(args.out / 'claims.json', claims)
    draw(claims, args.out / 'claims.png')
    for claim in claims:
        print(f'\n{claim["claim"]}\nexpected: {claim["expected"]}\nholds: {claim["holds"]}')
        columns = ('name', 'metric', 'mean', 'std')
        print(markdown_table(columns, [[arm[column] for column in columns] for arm in claim['arms']]))
    cpu = sum(result['cpu_seconds'] for result in every)
    print(f'\nwritten to {args.out}; {seconds:.0f} s, {cpu:.0f} s of processor time, seeds {args.seeds}')


if __name__ == '__main__':
    main()
