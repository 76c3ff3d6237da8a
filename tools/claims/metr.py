"""Five claims of METR (arXiv 2304.03580) on real handwritten digits, small enough for two CPU cores.

``python tools/claims/metr.py`` makes the images, trains all arms in two processes of one thread, evaluates them on 200
fully annotated images, and writes ``projects/metr/results/claims.json`` and ``claims.png``. Finished arms are kept in
the work folder, so that a run that was cut off goes on where it was. ``--quick`` only shows that everything runs.

All full arms train for the same number of iterations with the same batch size. AP50 is pycocotools'. A claim holds if
its direction is right in every seed, is null if only the mean is right, and else does not hold.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import shutil
import sys
import textwrap
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
from metr_parts.claims import FINETUNE_ITERS, make_claims
from metr_parts.data import DIGITS, make_sets
from metr_parts.evaluate import test
from metr_parts.model import run_config
from mmdet.utils import register_all_modules
from mmengine.runner import Runner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, markdown_table, origin, write_json

# Arm: sets, what differs from METR, checkpoint of which arm it starts from, iterations ('full': --iters).
ARMS = dict(
    joint=dict(sets=('a', 'b'), control=True),
    joint_unmasked=dict(sets=('a', 'b'), overrides=dict(mask_unannotated=False)),
    blind=dict(sets=('a', 'b'), overrides=dict(assigner='CategoryBlindAssigner')),
    random=dict(sets=('a', 'b'), overrides=dict(cem='RandomRetention')),
    pretrain=dict(sets=('old_a', 'old_b')),
    finetune=dict(sets=('new',), iters='finetune', start='pretrain'),
    scratch=dict(sets=('new',), iters='finetune'),
    only_a=dict(sets=('a',)),
    only_b=dict(sets=('b',)),
    half_a=dict(sets=('a',), iters='half'),
    half_b=dict(sets=('b',), iters='half'),
    scratch_long=dict(sets=('new',), iters='full + finetune'),
)


def run_arm(name: str, seed: int, iters: int, work_dir: Path, threads: int = 1) -> dict:
    """Train and test an arm, or read what an earlier run found."""
    folder = work_dir / f'{name}_{seed}'
    if (folder / 'result.json').is_file():
        return json.loads((folder / 'result.json').read_text())
    torch.set_num_threads(threads)
    register_all_modules()
    shutil.rmtree(folder, ignore_errors=True)
    arm = ARMS[name]
    finetune = min(FINETUNE_ITERS, iters)
    lengths = {'full': iters, 'half': (iters + 1) // 2, 'finetune': finetune, 'full + finetune': iters + finetune}
    steps = lengths[arm.get('iters', 'full')]
    pretrained = arm.get('start') and str(work_dir / f'{arm["start"]}_{seed}' / f'iter_{iters}.pth')
    start, cpu = time.time(), time.process_time()
    overrides = arm.get('overrides', {})
    cfg = run_config(work_dir / 'data', folder, arm['sets'], steps, seed, pretrained, **overrides)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        runner = Runner.from_cfg(cfg)
        runner.train()
        result = test(runner, cfg)
        if arm.get('control'):  # the same weights without any selection: every name gets queries
            runner.model.num_categories = len(DIGITS)
            result['all_names'] = test(runner, cfg)
    result.update(seconds=time.time() - start, cpu_seconds=time.process_time() - cpu, iterations=steps)
    write_json(folder / 'result.json', result)
    print(
        f'{name}, seed {seed}: AP50 {np.mean(list(result["ap50"].values())):.3f}, {result["seconds"]:.0f} s', flush=True
    )
    return result


def run_chain(names: list[str], *args) -> dict[str, dict]:
    """Run arms one after another."""
    return {name: run_arm(name, *args) for name in names}


def draw(claims: list[dict], path: Path) -> None:
    """One panel a claim: the arms as bars; recall by K as a curve."""
    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(16, 9), layout='constrained')
    for number, (claim, panel) in enumerate(zip(claims, panels.flat, strict=False), start=1):
        arms = [arm for arm in claim['arms'] if ' K=' not in arm['metric'] and arm['mean'] is not None][::-1]
        labels = [textwrap.fill(f'{arm["name"]}: {arm["metric"]}', 64 if len(arms) > 8 else 38) for arm in arms]
        colors = ['tab:orange' if arm['name'] != claim['arms'][0]['name'] else 'tab:blue' for arm in arms]
        bars = panel.barh(range(len(arms)), [a['mean'] for a in arms], xerr=[a['std'] or 0 for a in arms], color=colors)
        panel.bar_label(bars, fmt='%.3f', padding=3, fontsize=8)
        panel.set_yticks(range(len(arms)), labels, fontsize=6 if len(arms) > 8 else 7)
        panel.set_xlim(0, 1.15)
        answer = {True: 'holds', False: 'does not hold', None: 'undecided'}[claim['holds']]
        panel.set_title(f'claim {number}: {answer}', fontsize=10)
    recall = [arm['mean'] for arm in claims[3]['arms'] if ' K=' in arm['metric']]
    panel = panels.flat[-1]
    panel.plot(range(1, 11), recall, marker='o', label='CEM')
    panel.plot(range(1, 11), [k / 10 for k in range(1, 11)], linestyle='--', label='random')
    panel.set(xlabel='K', ylabel='recall of present names', ylim=(0, 1.05), title='names kept by the CEM')
    panel.legend()
    figure.savefig(path, dpi=72)
    pyplot.close(figure)


def main() -> None:
    """Run what is missing, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iters', type=int, default=600, help='iterations of a full arm (default 600)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/claims_metr')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/metr/results', help='folder of the results')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--quick', action='store_true', help='three iterations on a few images; numbers mean nothing')
    args = parser.parse_args()
    if args.quick:
        args.iters = 3
        args.work_dir = args.work_dir / 'quick'
    start = time.time()
    make_sets(args.work_dir / 'data', ROOT / 'tests/data/bccd', scale=0.02 if args.quick else 1.0)
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
    # Of the whole experiment, also of arms that an earlier run finished.
    seconds = max(time.time() - start, sum(result['seconds'] for result in every) / args.processes)
    claims = [{**claim, **origin(seconds, 'scikit-learn', 'pycocotools')} for claim in make_claims(results)]
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
