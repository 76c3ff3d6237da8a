"""Meta-steps a second: the loop over tasks against tasks at once, and tasks over processes.

``python tools/benchmarks/its_maml.py`` measures the meta-gradient of R-MAML in second order (Conv4-32, 5 ways, 1 shot,
15 queries, 5 inner steps, FGSM with random start) at 28x28 with 4 and 16 tasks and at 84x84 with 4, and of the network
of the small configs, and writes ``projects/its_maml/results/benchmark.json``. Each cell runs in a process of its own,
forked after the imports, so that its peak memory is its own; cells take turns, and the median of three rounds counts;
processor time on a CPU. The loop over two processes, which divide the tasks and average the gradients, is measured in
wall time, also with 16 tasks at 84x84. About five minutes.

learn2learn, the peer that one would compare with, has no wheel and its source does not build on Python 3.11 (its issue
413).
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from mmengine.registry import init_default_scope
from torch import Tensor
from torch.func import functional_call, grad, vmap

from mmplugins.its_maml import RobustMAML
from mmplugins.its_maml.attacks import unit_noise
from mmplugins.its_maml.learner import task_cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, markdown_table, origin, resident, seconds_of, write_json

GOAL = 1.5
EPS = 0.1
# In words, arguments of Conv4, features, side and channels of the image, inner steps.
NETWORKS = {
    'Conv4-32, 28x28': (dict(in_channels=1, padding=1), 128, 28, 1, 5),
    'Conv4-32, 84x84': (dict(), 800, 84, 3, 5),
    'small configs, 28x28': (
        dict(in_channels=1, channels=16, strides=(2, 2, 2, 1), padding=1, pool_strides=(0, 0, 0, 0)), 256, 28, 1, 2,
    ),
}  # fmt: skip
ENGINES = {
    'loop': 'loop over tasks',
    'vmap': 'vmap of the forward pass',
    'vmap_matmul': 'vmap, convolution as unfold and matmul',
    'func': 'vmap of grad (torch.func alone)',
}


def make(network: str, engine: str, tasks: int) -> tuple[RobustMAML, dict[str, Tensor]]:
    """Return a model and a batch of random episodes."""
    torch.manual_seed(0)
    backbone, features, side, channels, steps = NETWORKS[network]
    model = RobustMAML(
        dict(
            type='ImageClassifier',
            backbone=dict(type='Conv4', **backbone),
            head=dict(type='LinearClsHead', num_classes=5, in_channels=features),
        ),
        train_steps=steps,
        attack=dict(type='LinfAttack', eps=EPS),
        engine='loop' if engine == 'func' else engine,
    )
    episode = dict(
        support=torch.rand(tasks, 5, channels, side, side),
        support_labels=torch.arange(5).expand(tasks, -1),
        query=torch.rand(tasks, 75, channels, side, side),
        query_labels=torch.arange(5).repeat_interleave(15).expand(tasks, -1),
        seed=torch.arange(tasks),
    )
    return model, episode


def func_gradient(model: RobustMAML, episode: dict[str, Tensor]) -> dict[str, Tensor]:
    """The meta-gradient by ``vmap(grad(...))``, which also maps the inner gradients."""

    def loss(weights: dict, images: Tensor, labels: Tensor) -> Tensor:
        named = {f'classifier.{name}': weight for name, weight in weights.items()}
        return task_cross_entropy(functional_call(model.learner, named, (images,))[None], labels[None])[0]

    def outer(weights: dict, support: Tensor, support_labels: Tensor, query: Tensor, labels: Tensor, noise: Tensor):
        for _ in range(model.train_steps):
            inner = grad(loss)(weights, support, support_labels)
            weights = {name: weight - model.inner_lr * inner[name] for name, weight in weights.items()}
        fixed = {name: weight.detach() for name, weight in weights.items()}
        start = query + EPS * noise
        step = 1.25 * EPS * grad(loss, argnums=1)(fixed, start, labels).sign()
        low, high = (query - EPS).clamp(min=0), (query + EPS).clamp(max=1)
        return loss(weights, query, labels) + loss(weights, torch.clamp(start + step, low, high), labels)

    roots = model.learner.weights()
    noise = unit_noise(episode['seed'], episode['query'].shape[1:]).to(episode['query'])
    inputs = (episode[name] for name in ('support', 'support_labels', 'query', 'query_labels'))
    grads = vmap(grad(outer), in_dims=(None, 0, 0, 0, 0, 0))(roots, *inputs, noise)
    return {name: value.mean(0) for name, value in grads.items()}


def gradient(model: RobustMAML, episode: dict[str, Tensor], engine: str) -> dict[str, Tensor]:
    """The meta-gradient by one of the engines."""
    if engine == 'func':
        return func_gradient(model, episode)
    model.zero_grad()
    model(**episode, mode='loss')['loss_meta'].backward()
    return {name: weight.grad for name, weight in model.learner.classifier.named_parameters()}


def largest_difference() -> dict[str, float]:
    """Largest difference of each engine's gradient from the loop's, in double precision, 3 tasks at 28x28."""
    found: dict[str, float] = {}
    expected: dict[str, Tensor] = {}
    for engine in ENGINES:
        model, episode = make('Conv4-32, 28x28', engine, 3)
        episode = {name: value.double() if value.is_floating_point() else value for name, value in episode.items()}
        grads = gradient(model.double(), episode, engine)
        expected = expected or grads  # the loop is the first
        found[engine] = max((grads[name] - expected[name]).abs().max().item() for name in grads)
    return found


def cell(network: str, engine: str, tasks: int, device: str, queue) -> None:
    """Time of one meta-step after a warm-up with fewer tasks, and peak memory above the start, to ``queue``."""
    torch.set_num_threads(1)
    model, episode = make(network, engine, tasks)
    model, episode = model.to(device), {name: value.to(device) for name, value in episode.items()}
    few = {name: value[:2] for name, value in episode.items()} if device == 'cpu' else episode
    gradient(model, few, engine)
    if device == 'cpu':
        before = resident('VmRSS')
        seconds = seconds_of(lambda: gradient(model, episode, engine), device)
        memory = resident('VmHWM') - before
    else:
        torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(lambda: gradient(model, episode, engine), device)
        memory = torch.cuda.max_memory_allocated()
    queue.put((seconds, memory / 2**20))


def alone(*args) -> tuple[float, float]:
    """Run a cell in a process of its own."""
    context = multiprocessing.get_context('fork' if args[-1] == 'cpu' else 'spawn')
    queue = context.Queue()
    process = context.Process(target=cell, args=(*args, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def share(network: str, tasks: int, rank: int, processes: int, repeats: int, store: str, queue) -> None:
    """Wall times of meta-steps of the loop over ``tasks`` with one thread, gradients averaged over processes."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=processes)
    model, episode = make(network, 'loop', tasks)
    seconds = []
    for _ in range(repeats + 1):  # the first is the warm-up
        dist.barrier()
        start = time.perf_counter()
        grads = gradient(model, episode, 'loop')
        flat = torch.cat([grad.flatten() for grad in grads.values()])
        dist.all_reduce(flat)
        flat /= processes
        seconds.append(time.perf_counter() - start)
    queue.put(seconds[1:])
    dist.destroy_process_group()


def over_processes(network: str, tasks: int, repeats: int) -> dict[int, float]:
    """Median wall seconds of a meta-step by number of processes, which share the tasks as DDP does."""
    context = multiprocessing.get_context('fork')
    found = {}
    for processes in (1, 2):
        queue = context.Queue()
        with tempfile.TemporaryDirectory() as folder:
            args = (network, tasks // processes)
            rest = (processes, repeats, str(Path(folder, 'store')), queue)
            workers = [context.Process(target=share, args=(*args, rank, *rest)) for rank in range(processes)]
            for worker in workers:
                worker.start()
            seconds = [queue.get() for _ in workers]
            for worker in workers:
                worker.join()
        found[processes] = median(map(max, zip(*seconds, strict=True)))
    return found


def measure(device: str, repeats: int, quick: bool) -> dict[str, dict]:
    """Median seconds and largest memory of each cell."""
    cells = []
    for network in NETWORKS:
        for tasks in (2,) if quick else (4, 16):
            large = '84' in network and device == 'cpu'
            if large and tasks == 16:
                continue  # see the note in the table
            for engine in ENGINES:
                if not (large and engine in ('func', 'vmap_matmul')):
                    cells.append((network, engine, tasks, device))
    runs: dict[tuple, list] = {args: [] for args in cells}
    for _ in range(repeats):
        for args in cells:
            runs[args].append(alone(*args))
    found: dict[str, dict] = {}
    for (network, engine, tasks, _), values in runs.items():
        seconds, memory = median(v[0] for v in values), max(v[1] for v in values)
        found.setdefault(f'{network}, {tasks} tasks', {})[engine] = dict(seconds=seconds, mib=memory)
    return found


def table_of(results: dict) -> str:
    """Return the tables."""
    parts = []
    for device, cells in results['devices'].items():
        unit = 'processor seconds' if device == 'cpu' else 'seconds'
        parts.append(
            f'Meta-steps in {unit} on {device}, in parentheses how many times as fast as the loop, and peak memory in '
            'MiB. 84x84 with 16 tasks is left out of this table: vmap would take ten gigabytes, or as much as the '
            'line above in chunks of 4:'
        )
        rows = []
        for name, engines in cells.items():
            loop = engines['loop']['seconds']
            row = [name]
            for engine in ENGINES:
                value = engines.get(engine)
                ratio = '' if engine == 'loop' or not value else f' ({loop / value["seconds"]:.2f})'
                row.append(f'{value["seconds"]:.2f} s{ratio}, {value["mib"]:.0f}' if value else '–')
            rows.append(row)
        parts.append(markdown_table(('network, tasks', *ENGINES.values()), rows))
    lines = [[ENGINES[name], f'{value:.1e}'] for name, value in results['difference'].items() if name != 'loop']
    parts.append('Largest difference from the gradient of the loop, double precision (bound 1e-6):')
    parts.append(markdown_table(('engine', 'difference'), lines))
    parts.append(
        'The loop over processes of one thread, which share the tasks and average their gradients as DDP does, wall '
        f'seconds of a meta-step (cores: {results["cores"]}):'
    )
    rows = [
        [name, *(f'{value:.2f} s' for value in cells.values()), f'{cells[1] / cells[2]:.2f}']
        for name, cells in results['processes'].items()
    ]
    parts.append(markdown_table(('network, tasks', '1 process', '2 processes', 'ratio'), rows))
    rows = [
        [name, way, f'{ratio:.2f}', f'≥ {GOAL}' if ratio >= GOAL else f'≥ {GOAL}, **not reached**']
        for name, (way, ratio) in results['goal'].items()
    ]
    parts.append(markdown_table(('16 tasks', 'fastest', 'times as fast as the loop', 'goal'), rows))
    parts.append('learn2learn: not measured; it has no wheel and does not build on Python 3.11 (its issue 413).')
    return '\n\n'.join(parts)


def goal_of(results: dict, tasks: int) -> dict[str, tuple[str, float]]:
    """The fastest way and how many times as fast as the loop it is, for each device and network."""
    ways: dict[str, dict[str, float]] = {}
    for device, cells in results['devices'].items():
        for name, engines in cells.items():
            others = {ENGINES[engine]: value['seconds'] for engine, value in engines.items() if engine != 'loop'}
            loop = engines['loop']['seconds']
            ways[f'{device}: {name}'] = {way: loop / seconds for way, seconds in others.items()}
    for name, cells in results['processes'].items():
        ways.setdefault(f'cpu: {name}', {})['loop over 2 processes'] = cells[1] / cells[2]
    of_tasks = {name: found for name, found in ways.items() if name.endswith(f' {tasks} tasks')}
    return {name: max(found.items(), key=lambda item: item[1]) for name, found in of_tasks.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=3, help='of a cell (default 3)')
    parser.add_argument('--quick', action='store_true', help='2 tasks, once: only shows that it runs')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/its_maml/results/benchmark.json')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    init_default_scope('mmpretrain')
    torch.set_num_threads(1)
    start = time.time()
    repeats = 1 if args.quick else args.repeats
    results: dict = dict(devices={'cpu': measure('cpu', repeats, args.quick)}, difference=largest_difference())
    results['cores'] = len(os.sched_getaffinity(0))
    results['processes'] = {
        f'{name}, {count} tasks': over_processes(name, count, repeats)
        for name in NETWORKS
        for count in ((2,) if args.quick else (4, 16))
    }
    if torch.cuda.is_available():
        results['devices'][torch.cuda.get_device_name()] = measure('cuda', repeats, args.quick)
    results['goal'] = goal_of(results, 2 if args.quick else 16)
    text = table_of(results)
    where = origin(time.time() - start, 'onedl-mmpretrain')
    write_json(args.out, dict(table=text, **results, **where))
    print(text)
    print(f'\nwritten to {args.out}; {where["seconds"]} s')


if __name__ == '__main__':
    main()
