"""Meta-train and meta-test a grid of settings; a sweep that was cut off goes on where it was."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint

from mmplugins.utils.atomic import write_text
from mmplugins.utils.running.runner import resume_newest

from . import report
from .evaluation import evaluate, inner, set_test


def arm_config(
    cfg: Config, train_shots: int, reg_weight: float, inner_steps: int, seed: int, updates: int | None = None
) -> Config:
    """Return the config of one arm.

    Args:
        cfg: Base; not changed.
        train_shots: ``K̃``.
        reg_weight: ``λ``; 0 is MAML.
        inner_steps: In meta-training; those of meta-test stay.
        seed: Of weights and training episodes. Test episodes are the same in all arms.
        updates: Meta-updates; default: of the config.
    """
    cfg = deepcopy(cfg)
    cfg.model.reg_weight, cfg.model.train_steps = reg_weight, inner_steps
    inner(cfg, 'train').shots, inner(cfg, 'train').seed = train_shots, seed
    cfg.randomness = dict(seed=seed)
    if updates is not None:
        cfg.train_cfg.max_iters = updates
        cfg.train_cfg.val_interval = min(cfg.train_cfg.val_interval, updates)
    return cfg


class TrainingClock(Hook):
    """Count processor seconds of training over its resumes: those that led to a checkpoint are in it.

    They are those of this process: validations during the training are in them, the workers of its data loaders, which
    are processes of their own, are not.
    """

    def __init__(self) -> None:
        self.start = time.process_time()

    @property
    def seconds(self) -> float:
        """Since the start of the training, without what was lost behind the last checkpoint of a part."""
        return time.process_time() - self.start

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the clock down."""
        checkpoint['training_seconds'] = self.seconds

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what the checkpoint took."""
        self.start -= checkpoint.get('training_seconds', 0.0)


def claim_folder(cfg: Config, folder: Path) -> None:
    """Write the config of an arm into its folder, so that results and checkpoints there are of this config.

    Raises:
        ValueError: The folder holds an arm of another config.
    """
    file = folder / 'arm.json'
    own = json.loads(json.dumps(cfg.to_dict(), default=str))
    if not any(folder.glob('*')):
        write_text(file, json.dumps(own, indent=1))
        return
    kept = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}
    changed = sorted(key for key in own.keys() | kept.keys() if own.get(key) != kept.get(key))
    if changed:
        raise ValueError(
            f'{folder} holds an arm of another config, which differs in {", ".join(changed)}: take another --out, or '
            'remove that folder'
        )


def run_arm(cfg: Config, folder: Path, **row) -> dict:
    """Train an arm and test its last checkpoint, or read what an earlier run found.

    Args:
        cfg: Of the arm.
        folder: Its work dir; ``row.json`` there is the result.
        **row: Put into the result as they are.

    Returns:
        The row of ``evaluate`` with processor ``seconds`` of training, see ``TrainingClock``, and ``images`` that
        were seen.

    Raises:
        ValueError: The folder holds an arm of another config.
    """
    claim_folder(cfg, folder)
    file = folder / 'row.json'
    if file.is_file():
        return json.loads(file.read_text(encoding='utf-8'))
    cfg = deepcopy(cfg)
    cfg.work_dir = str(folder)
    clock = TrainingClock()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(clock)
    resume_newest(runner)
    runner.train()
    seconds = clock.seconds
    dataset, tasks = inner(cfg, 'train'), cfg.train_dataloader.batch_size * cfg.train_cfg.max_iters
    found = evaluate(cfg, find_latest_checkpoint(str(folder)), folder)
    cost = dict(
        updates=cfg.train_cfg.max_iters,
        images=tasks * dataset.ways * (dataset.shots + dataset.queries),
        seconds=round(seconds, 1),
    )
    found = {**row, **found, **cost}
    write_text(file, json.dumps(found))
    return found


def sweep(cfg: Config, out: Path, grid: list[dict], done: Callable[[dict], None] = print) -> list[dict]:
    """Run the arms of ``grid``, dicts with the arguments of ``arm_config``; return their rows."""
    rows = []
    for arm in grid:
        name = '_'.join(f'{key}{value:g}' for key, value in arm.items())
        kept = {key: value for key, value in arm.items() if key != 'updates'}
        row = run_arm(arm_config(cfg, **arm), out / 'arms' / name, config=Path(cfg.filename).stem, **kept)
        done(f'{name}: clean {row["clean"]:.1f}, score {row["score"]:.1f}, {row["seconds"]:.0f} s')
        rows.append(row)
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sweep``."""
    parser.add_argument('config')
    parser.add_argument('--train-shots', type=int, nargs='+', default=[1, 2, 3, 5])
    parser.add_argument('--reg-weight', type=float, nargs='+', default=[1.0], help='0: MAML')
    parser.add_argument('--inner-steps', type=int, nargs='+', help='in meta-training (default: of the config)')
    parser.add_argument('--seeds', type=int, default=3, help='number of seeds, from 0 on')
    parser.add_argument('--updates', type=int, help='meta-updates (default: of the config)')
    parser.add_argument('--tasks', type=int, help='test tasks (default: of the config)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/its_maml_sweep'))


def run(args: argparse.Namespace) -> None:
    """Run the grid, one arm after another; write the report."""
    cfg = Config.fromfile(args.config)
    set_test(cfg, tasks=args.tasks)
    steps = args.inner_steps or [cfg.model.train_steps]
    grid = [
        dict(train_shots=shots, reg_weight=weight, inner_steps=step, seed=seed)
        for seed, step, weight, shots in itertools.product(
            range(args.seeds), steps, args.reg_weight, args.train_shots
        )
    ]  # fmt: skip
    if args.updates is not None:
        grid = [dict(arm, updates=args.updates) for arm in grid]
    rows = sweep(cfg, args.out, grid)
    report.write(rows, args.out)
    print(report.markdown(rows))
    print(f'written to {args.out}')
