"""Does a teacher help a sparse student? H-GKD (arXiv 2309.09571) on real digits, small enough for two CPU cores.

``python tools/claims/hgkd.py`` pretrains the same sparse encoder in five ways on 4,000 digits without labels, with the
modules of the plugin through mmengine's Runner, exports it, and measures a linear probe and fine-tuning on 50 labels,
beside an encoder from scratch. It writes ``projects/hgkd/results/claims.json`` and ``claims.png``. Finished arms are
kept in the work folder, so that a run that was cut off goes on where it was. ``--quick`` only shows that all runs.

The teacher, a MAE of the same 4,000 digits, is shipped (``tests/data/hgkd/mae_digits.npz``); ``--train-teacher`` trains
it anew. A claim holds if its direction is right in every seed, is null if only the mean is right, else does not hold.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import sys
import time
from pathlib import Path

import matplotlib
import torch
from hgkd_parts import digits, evaluate, models
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from mmplugins.hgkd import GenerativeDistillHook, TeacherProvider
from mmplugins.hgkd.sparse.export import backbone_weights
from mmplugins.hgkd.teachers.loading import load_strictly
from mmplugins.hgkd.weights import read_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, markdown_table, origin, write_json

RESULTS = ROOT / 'projects/hgkd/results'
TEACHER = ROOT / 'tests/data/hgkd/mae_digits.npz'
SEEDS = (0, 1, 2)
TEACHER_EPOCHS = 120
LABELS = 50
# Arm: (supervised positions, teacher). None: pixels, as SparK; no entry: not pretrained.
ARMS = {
    'from scratch': None,
    'SparK': (None, None),
    'H-GKD, masked positions': ('masked', 'mae'),
    'H-GKD, all positions': ('all', 'mae'),
    'control: random teacher': ('all', 'random'),
    'control: teacher tuned with 4,000 labels': ('all', 'labels'),
}
SCRATCH, SPARK, MASKED, ALL, RANDOM, TUNED = ARMS


def vit(kind: str, args: argparse.Namespace) -> torch.nn.Module:
    """Return the encoder of a teacher: ``'mae'``, ``'random'``, or ``'labels'``."""
    torch.manual_seed(0)
    model = MODELS.build(models.VIT)
    model.init_weights()
    if kind != 'random':
        path = args.work_dir / f'teacher_{kind}.pth'
        path = path if path.is_file() else TEACHER
        load_strictly(model, read_checkpoint(path)['state_dict'], str(path))
    return model


def train_teacher(args: argparse.Namespace) -> None:
    """Pretrain the MAE and keep its encoder."""
    cfg = models.run_config(models.MAE, args.work_dir / 'teacher', args.teacher_epochs, 0, 1.5e-3, args.images)
    torch.set_num_threads(1)
    runner = Runner.from_cfg(Config(cfg))
    runner.train()
    torch.save(backbone_weights(runner.model.state_dict()), args.work_dir / 'teacher_mae.pth')


def tune_teacher(args: argparse.Namespace) -> None:
    """Control: train the MAE's encoder on with all 4,000 labels, and keep it."""
    path = args.work_dir / 'teacher_labels.pth'
    if path.is_file():
        return
    prepare()
    start = time.process_time()
    model, linear = vit('mae', args), torch.nn.Linear(64, 10)
    images, labels = (part[: args.images] for part in digits.load()['train'])
    optimizer = torch.optim.AdamW([*model.parameters(), *linear.parameters()], lr=5e-4, weight_decay=0.05)
    for _ in range(args.tune_epochs):
        for batch in torch.randperm(len(images)).split(128):
            tokens = model(digits.place(images[batch], shift=True), mask=None)[-1]
            loss = torch.nn.functional.cross_entropy(linear(tokens[:, 1:].mean(dim=1)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    write_json(path.with_suffix('.json'), dict(seconds=time.process_time() - start))
    torch.save(model.state_dict(), path)


def prepare() -> None:
    """What each process needs once."""
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')


def run_arm(task: tuple[str, int, argparse.Namespace]) -> dict:
    """Pretrain, export and measure an arm, or read what an earlier run found."""
    name, seed, args = task
    if name == 'tune':
        return tune_teacher(args) or {}
    folder = args.work_dir / f'{list(ARMS).index(name)}_{seed}'
    if (folder / 'result.json').is_file():
        return json.loads((folder / 'result.json').read_text())
    prepare()
    shutil.rmtree(folder, ignore_errors=True)
    start = time.process_time()
    weights = None
    if ARMS[name] is not None:
        supervise, kind = ARMS[name]
        hooks = []
        if kind is not None:
            # A random teacher cannot be asked for in a config: the hook takes the network itself.
            hooks = [GenerativeDistillHook(vit(kind, args), taps=[models.TAP])]
        cfg = models.run_config(models.student(supervise), folder, args.epochs, seed, 2e-3, args.images)
        runner = Runner.from_cfg(Config(cfg))
        for hook in hooks:
            runner.register_hook(hook)
        runner.train()
        weights = backbone_weights(runner.model.state_dict())
    pretraining = time.process_time() - start
    data = digits.load()
    torch.manual_seed(seed)
    encoder = evaluate.resnet(weights)
    encoder.eval()
    result = dict(
        name=name,
        seed=seed,
        probe=evaluate.ridge_probe(lambda images: encoder(images)[-1], data),
        few=evaluate.few_labels(weights, data, LABELS, seed, args.finetune_epochs),
        pretraining=pretraining,
        seconds=time.process_time() - start,
    )
    write_json(folder / 'result.json', result)
    return result


def teacher_probe(kind: str, args: argparse.Namespace) -> float:
    """Ridge probe of a teacher's targets, averaged over the tokens."""
    provider = TeacherProvider(vit(kind, args), [models.TAP])
    return evaluate.ridge_probe(lambda images: provider(images, torch.ones(len(images), 1, 4, 4).bool()), digits.load())


def verdict(better: dict[int, float], worse: dict[int, float], margin: float = 0.0) -> bool | None:
    """Whether one is ahead of the other by a margin: in each seed (True), on average only (None), else False."""
    gaps = [better[seed] - worse[seed] - margin for seed in better]
    if min(gaps) > 0:
        return True
    return None if statistics.mean(gaps) > 0 else False


def make_claims(results: dict[str, dict[int, dict]], teachers: dict[str, float], where: dict) -> list[dict]:
    """What is claimed, with its arms and the answer."""

    def values(name: str, key: str) -> dict[int, float]:
        return {seed: result[key] for seed, result in results[name].items()}

    def arm(name: str, metric: str, found: dict[int, float]) -> dict:
        spread = statistics.stdev(found.values()) if len(found) > 1 else None
        return dict(name=name, metric=metric, mean=statistics.mean(found.values()), std=spread, seeds=list(found))

    def arms(key: str, metric: str, names: tuple[str, ...]) -> list[dict]:
        return [arm(name, metric, values(name, key)) for name in names]

    def entry(claim: str, source: str, expected: str, holds: bool | None, rows: list[dict]) -> dict:
        return dict(claim=claim, source=source, expected=expected, holds=holds, arms=rows, **where)

    probe, few = 'linear probe, 4,000 labels', f'fine-tuned on {LABELS} labels'
    names = (SCRATCH, SPARK, MASKED, ALL, RANDOM)
    found = [
        entry(
            'The teacher knows more than a SparK student, so there is something to transfer',
            'ours: the condition of the experiment',
            'the probe of the MAE is at least 5 points above that of SparK',
            verdict({s: teachers['mae'] for s in values(SPARK, 'probe')}, values(SPARK, 'probe'), 0.05),
            [arm('MAE teacher', probe, {0: teachers['mae']}), *arms('probe', probe, (SPARK,))],
        )
    ]
    for key, metric in (('probe', probe), ('few', few)):
        ahead = [verdict(values(a, key), values(b, key)) for a, b in ((ALL, SPARK), (SPARK, SCRATCH))]
        found.append(
            entry(
                f'Distilled features are better than those of masked pixels, and these than none: {metric}',
                'abstract: 76.98 -> 80.01 % on ImageNet; SparK for the second half',
                'H-GKD (all positions) above SparK, SparK above scratch',
                False if False in ahead else (None if None in ahead else True),
                arms(key, metric, names),
            )
        )
    either = [verdict(values(ALL, key), values(RANDOM, key)) for key in ('probe', 'few')]
    found.append(
        entry(
            'It is what the teacher learned that helps, not the prediction of some features',
            'ours: control',
            'H-GKD above the same with a random teacher, in both measures',
            False if False in either else (None if None in either else True),
            [row for key, metric in (('probe', probe), ('few', few)) for row in arms(key, metric, (ALL, RANDOM))],
        )
    )
    found.append(
        entry(
            'What the teacher knows goes over to the student (a control: this teacher saw all labels)',
            'ours: control',
            'a teacher tuned with labels gives a better student than the MAE, in the probe',
            verdict(values(TUNED, 'probe'), values(ALL, 'probe')),
            [
                arm('label-tuned teacher', probe, {0: teachers['labels']}),
                *arms('probe', probe, (ALL, TUNED)),
                *arms('few', few, (ALL, TUNED)),
            ],
        )
    )
    return found


def draw(results: dict[str, dict[int, dict]], teachers: dict[str, float], path: Path) -> None:
    """Draw both measures of all arms, a dot for each seed."""
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), sharey=True)
    titles = dict(probe='linear probe (dashed: the MAE teacher)', few=f'fine-tuned on {LABELS} labels')
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for row, (name, seeds) in enumerate(reversed(results.items())):
            values = [result[key] for result in seeds.values()]
            color = '#888888' if name.startswith('control') else '#1f6fb2'
            axis.barh(row, statistics.mean(values), color=color, alpha=0.5)
            axis.plot(values, [row] * len(values), 'o', color=color, markersize=4)
        axis.set_yticks(range(len(results)), list(reversed(results)), fontsize=8)
        axis.set_xlim(left=max(0, min(r[key] for s in results.values() for r in s.values()) - 0.1), right=1)
        axis.set_title(f'test accuracy, {title}', fontsize=9)
    axes[0].axvline(teachers['mae'], color='black', linestyle='--', linewidth=1)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Train what is missing, measure, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/claims_hgkd')
    parser.add_argument('--out', type=Path, default=RESULTS)
    parser.add_argument('--train-teacher', action='store_true', help='do not use the shipped teacher')
    parser.add_argument('--quick', action='store_true', help='tiny runs; the numbers mean nothing')
    args = parser.parse_args()
    quick = args.quick
    args.images = 256 if quick else None
    args.epochs, args.finetune_epochs, args.tune_epochs = (1, 1, 1) if quick else (10, 60, 4)
    args.teacher_epochs = 1 if quick else TEACHER_EPOCHS
    args.work_dir.mkdir(parents=True, exist_ok=True)
    prepare()
    if args.train_teacher and not (args.work_dir / 'teacher_mae.pth').is_file():
        train_teacher(args)
    tasks = [('tune', 0, args), *((name, seed, args) for name in ARMS for seed in (SEEDS[:1] if quick else SEEDS))]
    results: dict[str, dict[int, dict]] = {name: {} for name in ARMS}
    # The arms of the tuned teacher come last, when it is long there.
    with multiprocessing.get_context('spawn').Pool(2) as pool:
        for result in pool.imap(run_arm, tasks, chunksize=1):
            if result:
                results[result['name']][result['seed']] = result
                print({key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()})
    teachers = {kind: teacher_probe(kind, args) for kind in ('mae', 'labels')}
    # Processor time, halved for the two processes: the time on quiet cores, also of arms that an earlier run trained.
    spent = [result['seconds'] for seeds in results.values() for result in seeds.values()]
    spent.append(json.loads((args.work_dir / 'teacher_labels.json').read_text())['seconds'])
    claims = make_claims(results, teachers, origin(sum(spent) / 2, 'mlxtend', 'onedl-mmpretrain'))
    write_json(args.out / 'claims.json', claims)
    draw(results, teachers, args.out / 'claims.png')
    for claim in claims:
        rows = [(a['name'], a['metric'], f'{a["mean"]:.3f}', a['std'] and f'{a["std"]:.3f}') for a in claim['arms']]
        print(f'{claim["claim"]}: {claim["holds"]}\n{markdown_table(("arm", "metric", "mean", "std"), rows)}')


if __name__ == '__main__':
    main()
