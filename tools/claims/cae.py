"""Claims of CAE (arXiv 2202.03026) and CAE v2 (arXiv 2211.09799) on real handwritten digits, for two CPU cores.

``python tools/claims/cae.py`` fits the frozen targets, pretrains all arms in two processes of one thread, probes their
features, and writes ``projects/cae/results/claims.json`` and ``claims.png``. Finished arms are kept in the work folder,
so that a run that was cut off goes on where it was. ``--quick`` only shows that everything runs.

Probes see the mean of the patch tokens, or all of them side by side, standardized as the batch norm of the paper's
linear probe does: logistic regression on all labels and on ten labels a class (mean of five draws), and the ten nearest
neighbors. A claim holds if the means over seeds say so with the margin that it states.
"""

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import torch
from cae_parts.arms import ARMS, run_arm
from cae_parts.digits import Digits, fit_teacher, fit_tokenizer
from cae_parts.judge import draw, make_claims, with_all_tokens
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, origin, write_json

SEEDS = (0, 1, 2)
ONCE = ('raw pixels', 'CAE v1, no alignment', 'CAE v1, no decoder', 'CAE v1, neither')  # shown, nothing is claimed


def jobs(seeds: tuple[int, ...]) -> list[tuple[str, int]]:
    """All arms of a seed, then those of the next."""
    return [(name, seed) for seed in seeds for name in ARMS if seed == seeds[0] or name not in ONCE]


def run(job: tuple[str, int, Path, float]) -> tuple[str, int, dict]:
    """Run an arm, or read what an earlier run found."""
    name, seed, folder, scale = job
    torch.set_num_threads(1)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    init_default_scope('mmpretrain')
    file = folder / f'{name.replace(", ", "_").replace(" ", "-")}_{seed}.json'
    if not file.is_file():
        result = run_arm(name, seed, folder, scale)
        write_json(file, result)
        print(f'{name}, seed {seed}: {result}', flush=True)
    return name, seed, json.loads(file.read_text())


def main() -> None:
    """Fit the targets, run, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/claims_cae'), help='finished arms')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/cae/results')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--quick', action='store_true', help='one seed, a twentieth of the steps')
    args = parser.parse_args()
    start, scale, seeds = time.time(), 0.05 if args.quick else 1.0, SEEDS[:1] if args.quick else SEEDS
    folder = args.work_dir / ('quick' if args.quick else 'full')
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not (folder / 'teacher.json').is_file():
        digits = Digits()
        fit_tokenizer(digits, folder / 'tokens.npz')
        accuracy = fit_teacher(digits, folder / 'teacher.pth', 2 if args.quick else 30)
        write_json(folder / 'teacher.json', accuracy)
    accuracy = json.loads((folder / 'teacher.json').read_text())
    if accuracy < 0.95 and not args.quick:
        raise SystemExit(f'the teacher has {accuracy:.3f} on the test digits, too few to stand for CLIP')
    work = [(name, seed, folder, scale) for name, seed in jobs(seeds)]
    with multiprocessing.get_context('spawn').Pool(args.processes) as pool:
        found = pool.map(run, work, chunksize=1)
    results: dict[str, dict[int, dict]] = {name: {} for name in ARMS}
    for name, seed, result in found:
        results[name][seed] = result
    results = with_all_tokens(results)
    seconds = sum(result.get('cpu_seconds', 0.0) for _, _, result in found)
    where = origin(time.time() - start, 'scikit-learn', 'mmpretrain', 'onedl-mmpretrain')
    where['seconds'] = max(where['seconds'], round(seconds / args.processes))  # of a run that was not cut off
    write_json(args.out / 'claims.json', make_claims(results, where, teacher=100 * accuracy))
    draw(results, args.out / 'claims.png')
    print(f'{len(found)} arms, {seconds:.0f} s of processor time; teacher {100 * accuracy:.1f} %')
    print(f'mean of 10-NN of CAE v2: {np.mean([r["mean"]["10-NN"] for r in results["CAE v2, both"].values()]):.1f} %')


if __name__ == '__main__':
    main()
