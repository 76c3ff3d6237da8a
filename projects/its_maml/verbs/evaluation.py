"""Meta-test of a checkpoint: accuracies with intervals, dimensions, and the spectrum of the features, as one row."""

from __future__ import annotations

import argparse
import inspect
import re
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from mmplugins.utils.wrappers import model_of

from ..hooks import fixed_positions, meta_features, method_name
from ..intrinsic_dim import explained_variance
from ..robust_maml import RobustMAML
from . import report
from .loading import load_weights, read_checkpoint

ESTIMATORS = ('pca90', 'pca95', 'twonn', 'mle')


def attack_config(name: str, eps: float) -> dict:
    """Return the config of an attack by its short name.

    Args:
        name: ``fgsm``; ``pgd10`` with any number of steps; ``autoattack`` or ``torchattacks:<class>``;
            ``foolbox:<class>``.
        eps: Largest change of a pixel.
    """
    if name == 'fgsm':
        return dict(type='LinfAttack', eps=eps)
    if match := re.fullmatch(r'pgd(\d+)', name):
        return dict(type='LinfAttack', eps=eps, steps=int(match[1]))
    if name == 'autoattack':
        return dict(type='TorchAttack', name='AutoAttack', eps=eps)
    library, _, cls = name.partition(':')
    if library in ('torchattacks', 'foolbox') and cls:
        return dict(type='TorchAttack' if library == 'torchattacks' else 'FoolboxAttack', name=cls, eps=eps)
    raise ValueError(f'unknown attack {name!r}: fgsm, pgd<steps>, autoattack, torchattacks:<class> or foolbox:<class>')


def inner(cfg: Config, part: str) -> Any:
    """Return the config of the ``EpisodicDataset`` of ``train``, ``val`` or ``test``."""
    return cfg[f'{part}_dataloader'].dataset


def set_test(
    cfg: Config,
    shots: int | None = None,
    tasks: int | None = None,
    attacks: Sequence[str] = (),
    eps: float | None = None,
) -> None:
    """Change what a config tests, in place; what is None stays as the config says.

    Args:
        cfg: Of a training.
        shots: Of an episode.
        tasks: Number of episodes.
        attacks: Names of attacks: those of the config's ``test_attacks``, or of ``attack_config``.
        eps: Largest change of a pixel, of all attacks; what else the config says of them stays.

    Raises:
        ValueError: An unknown attack, no attack, or none of the config to take the radius from.
    """
    dataset = inner(cfg, 'test')
    if shots is not None:
        dataset.shots = shots
    if tasks is not None:
        dataset.num_episodes = tasks
    cfg.model.with_features = True
    if not attacks and eps is None:
        return
    given = cfg.model.get('test_attacks') or {}
    names = list(attacks) or list(given)
    if not names:
        raise ValueError('the config has no test attack whose radius --eps could change: give --attack')
    radii = [attack.eps for attack in given.values() if 'eps' in attack] if eps is None else [eps]
    if not radii and not set(names) <= set(given):
        raise ValueError('the config has no test attack to take the radius from: give --eps')
    own = {} if eps is None else dict(eps=eps)
    # Replaced, not merged: the order of the names is that of the columns.
    cfg.model.test_attacks = {
        name: dict(given[name], **own) if name in given else attack_config(name, radii[0]) for name in names
    }


def trained_method(cfg: Config, test_shots: int) -> str:
    """Return the name of the variant that a config trains, without building it."""
    arguments = {name: one.default for name, one in inspect.signature(RobustMAML).parameters.items()}
    arguments.update(cfg.model, base=MODELS.get(cfg.model.type).base)
    return method_name(SimpleNamespace(**arguments), inner(cfg, 'train').shots, test_shots)


def evaluate(cfg: Config, checkpoint: str | Path, work_dir: str | Path) -> dict:
    """Test a checkpoint as a config says.

    Returns:
        A row: ``method`` and ``train_shots`` of the config that the checkpoint carries, or of ``cfg`` if it carries
        none; ``test_shots``, the metrics of ``FewShotRobustMetric`` without prefix,
        ``id_<estimator>`` and ``id_images`` of ``IntrinsicDimensionHook``, ``spectrum`` (cumulative shares of
        variance), ``test_seconds`` of the processor.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: Its weights are not those of the config's model.
    """
    saved, trained = read_checkpoint(checkpoint)
    trained = trained or cfg
    cfg = deepcopy(cfg)
    cfg.work_dir, cfg.load_from, cfg.resume = str(work_dir), None, False
    hook = dict(type='IntrinsicDimensionHook', estimators=ESTIMATORS)
    own = [item for item in cfg.get('custom_hooks', []) if item['type'] != hook['type']]
    given = next((dict(item) for item in cfg.get('custom_hooks', []) if item['type'] == hook['type']), {})
    cfg.custom_hooks = [*own, {**given, **hook}]
    runner = Runner.from_cfg(cfg)
    load_weights(model_of(runner), saved, checkpoint)  # a runner would load those that fit and test the rest at random
    start = time.process_time()
    metrics = runner.test()
    seconds = time.process_time() - start
    model, dataset = model_of(runner), runner.test_dataloader.dataset
    positions = fixed_positions(dataset, given.get('num_classes', 20), given.get('per_class', 50), given.get('seed', 0))
    images = dataset.images(positions).to(next(model.parameters()).device)
    shares = explained_variance(meta_features(model, images, given.get('batch_size', 100)))
    row = {name.removeprefix('few_shot/').replace('/', '_'): round(value, 4) for name, value in metrics.items()}
    return dict(
        method=trained_method(trained, dataset.shots),
        train_shots=inner(trained, 'train').shots,
        test_shots=dataset.shots,
        **row,
        spectrum=[round(value, 5) for value in shares.cumsum(0).tolist()],
        test_seconds=round(seconds, 1),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``test``."""
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='+', help='one or more, for example of several seeds')
    parser.add_argument('--shots', type=int, nargs='+', help='test shots (default: of the config)')
    parser.add_argument('--tasks', type=int, help='test tasks (default: of the config)')
    parser.add_argument(
        '--attack', nargs='+', default=[], help='of the config, or fgsm, pgd10, autoattack, torchattacks:X, foolbox:X'
    )
    parser.add_argument(
        '--eps', type=float, help='radius in [0, 1] (default: as the config says; for others that of its first)'
    )
    parser.add_argument('--out', type=Path, default=Path('its_maml_report'), help='folder of table, CSV and plots')


def run(args: argparse.Namespace) -> None:
    """Test every checkpoint with every number of shots; write the report."""
    rows = []
    for checkpoint in args.checkpoint:
        for shots in args.shots or [None]:
            cfg = Config.fromfile(args.config)
            set_test(cfg, shots, args.tasks, args.attack, args.eps)
            row = evaluate(cfg, checkpoint, args.out / 'logs')
            given = {} if args.eps is None else dict(eps=args.eps)
            rows.append(dict(config=Path(args.config).stem, checkpoint=Path(checkpoint).name, **given, **row))
    report.write(rows, args.out)
    print(report.markdown(rows))
    print(f'written to {args.out}')
