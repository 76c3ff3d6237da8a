"""Do more training shots help robust MAML? On Omniglot and on turned digits, small enough for two CPU cores.

``python tools/claims/its_maml.py`` meta-trains a network of 8,533 weights in twelve settings on drawings of Omniglot
(tests/data/omniglot, 14x14) and in four on scikit-learn's digits, three seeds each, one thread a process; tests all on
the same tasks with 1 shot; and writes ``projects/its_maml/results/claims.json`` and ``claims.png``. Finished arms are
kept in the work folder, so that a run that was cut off goes on where it was. ``--quick`` only shows that it runs.

A claim holds if its direction is right in every seed, is null if only the mean is right, and else does not hold.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import torch
from its_maml_parts import arms
from its_maml_parts.report import draw, make_claims

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, markdown_table, origin, write_json


def run_arm(*args) -> dict:
    """Run one arm with one thread."""
    torch.set_num_threads(1)
    start = time.time()
    row = arms.run(ROOT, *args)
    if time.time() - start > 1:  # else it was there
        data, name, seed = args[1:4]
        print(f'{data}, {name}, seed {seed}: clean {row["clean"]:.1f}, robust {row["pgd10"]:.1f}', flush=True)
    return row


def main() -> None:
    """Run what is missing, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--updates', type=int, default=200, help='meta-updates (default 200)')
    parser.add_argument('--tasks', type=int, default=60, help='test tasks (default 60)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/claims_its_maml')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/its_maml/results', help='folder of the results')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--quick', action='store_true', help='two updates, two tasks; numbers mean nothing')
    args = parser.parse_args()
    updates, tasks = (2, 2) if args.quick else (args.updates, args.tasks)
    names = [(data, name) for data, found in arms.ARMS.items() for name in found]
    jobs = [(args.work_dir, data, name, seed, updates, tasks) for seed in args.seeds for data, name in names]
    with multiprocessing.get_context('spawn').Pool(args.processes) as pool:
        found = pool.starmap(run_arm, jobs, chunksize=1)
    rows: dict[str, dict[str, list[dict]]] = {data: {name: [] for name in of} for data, of in arms.ARMS.items()}
    for (_, data, name, *_), row in zip(jobs, found, strict=True):
        rows[data][name].append(row)
    # Processor time of the whole experiment, also of arms that an earlier run finished.
    seconds = sum(row['seconds'] + row['test_seconds'] for row in found)
    claims = [{**claim, **origin(seconds, 'onedl-mmpretrain', 'scikit-learn')} for claim in make_claims(rows)]
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / 'claims.json', claims)
    draw(rows, args.out / 'claims.png')
    for claim in claims:
        print(f'\n{claim["claim"]}\nexpected: {claim["expected"]}\nholds: {claim["holds"]}')
        columns = ('name', 'metric', 'mean', 'std')
        print(markdown_table(columns, [[arm[column] for column in columns] for arm in claim['arms']]))
    print(f'\nwritten to {args.out}; {seconds:.0f} s of processor time, seeds {args.seeds}')


if __name__ == '__main__':
    main()
