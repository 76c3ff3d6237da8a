"""Meta-steps: the loop over tasks against tasks at once, and tasks over processes.

The meta-gradient of R-MAML in second order (5 ways, 1 shot, 15 queries, FGSM with random start) of Conv4-32 and of the
network of the small configs. 84x84 with 16 tasks is left out: ``vmap`` would take ten gigabytes. With five shots, as
ITS-MAML has them, also the memory of inner steps that keep their graph and of those that are done again. The loop over
two processes, which share the tasks and average the gradients as DDP does, is measured in wall-clock time.

learn2learn, the peer that one would compare with, has no wheel and does not build on Python 3.11 (its issue 413).
"""

import functools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from mmengine.registry import init_default_scope
from torch import Tensor
from torch.func import functional_call, grad, vmap

from experiments.frame.benchmark import Benchmark, Bound, Case, Measured, Options, ratio
from experiments.frame.origin import cores
from mmplugins.its_maml import RobustMAML
from mmplugins.its_maml.attacks import unit_noise
from mmplugins.its_maml.learner import task_cross_entropy

EPS = 0.1
LOOP, FUNC = 'loop over tasks', 'vmap of grad (torch.func alone)'
ONE, TWO = '1 process', '2 processes'
KEPT, AGAIN = 'graphs of all inner steps', 'inner steps done again'
ENGINES = {LOOP: 'loop', 'vmap of the forward pass': 'vmap'}
SMALL, MIDDLE, LARGE = 'small configs, 28x28', 'Conv4-32, 28x28', 'Conv4-32, 84x84'
# Arguments of Conv4, features, side and channels of the image, inner steps.
NETWORKS = {
    MIDDLE: (dict(in_channels=1, padding=1), 128, 28, 1, 5),
    LARGE: (dict(), 800, 84, 3, 5),
    SMALL: (
        dict(in_channels=1, channels=16, strides=(2, 2, 2, 1), padding=1, pool_strides=(0, 0, 0, 0)), 256, 28, 1, 2,
    ),
}  # fmt: skip


def make(network: str, engine: str, tasks: int, shots: int = 1) -> tuple[RobustMAML, dict[str, Tensor]]:
    """Return a model and a batch of random episodes; ``engine`` is an arm of any case."""
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    backbone, features, side, channels, steps = NETWORKS[network]
    model = RobustMAML(
        dict(
            type='ImageClassifier',
            backbone=dict(type='Conv4', **backbone),
            head=dict(type='LinearClsHead', num_classes=5, in_channels=features),
        ),
        train_steps=steps,
        attack=dict(type='LinfAttack', eps=EPS),
        engine=ENGINES.get(engine, 'loop'),
        checkpoint_steps=engine == AGAIN,
    )
    episode = dict(
        support=torch.rand(tasks, 5 * shots, channels, side, side),
        support_labels=torch.arange(5).repeat_interleave(shots).expand(tasks, -1),
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
        step = 1.25 * EPS * grad(lambda x: loss(fixed, x.clamp(0, 1), labels))(start).sign()
        low, high = (query - EPS).clamp(min=0), (query + EPS).clamp(max=1)
        return loss(weights, query, labels) + loss(weights, torch.clamp(start + step, low, high), labels)

    roots = model.learner.weights()
    noise = unit_noise(episode['seed'], episode['query'].shape[1:]).to(episode['query'])
    inputs = (episode[name] for name in ('support', 'support_labels', 'query', 'query_labels'))
    grads = vmap(grad(outer), in_dims=(None, 0, 0, 0, 0, 0))(roots, *inputs, noise)
    return {name: value.mean(0) for name, value in grads.items()}


def gradient(model: RobustMAML, episode: dict[str, Tensor], engine: str) -> dict[str, Tensor]:
    """The meta-gradient by one of the engines."""
    if engine == FUNC:
        return func_gradient(model, episode)
    model.zero_grad()
    model(**episode, mode='loss')['loss_meta'].backward()
    return {name: weight.grad for name, weight in model.learner.classifier.named_parameters()}


def build(network: str, engine: str, tasks: int, device: str, shots: int = 1) -> Callable[[], None]:
    """Return one meta-step; it leaves no gradients to be sent back."""
    model, episode = make(network, engine, tasks, shots)
    model, episode = model.to(device), {name: value.to(device) for name, value in episode.items()}
    return functools.partial(_discard, model, episode, engine)


def _discard(*args) -> None:
    gradient(*args)


def check(options: Options) -> None:
    """Compare each engine's gradient with the loop's, in double precision, 3 tasks at 28x28.

    Raises:
        AssertionError: They differ by more than 1e-6.
    """
    expected: dict[str, Tensor] = {}
    for engine in (*ENGINES, AGAIN, FUNC):
        model, episode = make(MIDDLE, engine, 3)
        episode = {
            name: value.to(options.device, torch.float64 if value.is_floating_point() else value.dtype)
            for name, value in episode.items()
        }
        grads = gradient(model.to(options.device, torch.float64), episode, engine)
        expected = expected or grads  # the loop is the first
        for name, value in grads.items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=f'{engine}: {name}')


def share(network: str, tasks: int, rank: int, processes: int, repeats: int, store: str, queue) -> None:
    """Wall times of meta-steps of the loop over ``tasks``, one thread, gradients averaged over processes."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=processes)
    model, episode = make(network, LOOP, tasks)
    seconds = []
    for _ in range(repeats + 1):  # the first is the warm-up
        dist.barrier()
        start = time.perf_counter()
        flat = torch.cat([value.flatten() for value in gradient(model, episode, LOOP).values()])
        dist.all_reduce(flat)
        flat /= processes
        seconds.append(time.perf_counter() - start)
    queue.put(seconds[1:])
    dist.destroy_process_group()


def over_processes(network: str, tasks: int, processes: int, repeats: int) -> float:
    """Median wall seconds of a meta-step whose tasks are shared by processes."""
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        rest = (processes, repeats, str(Path(folder, 'store')), queue)
        workers = [
            context.Process(target=share, args=(network, tasks // processes, rank, *rest)) for rank in range(processes)
        ]
        for worker in workers:
            worker.start()
        seconds = [queue.get() for _ in workers]
        for worker in workers:
            worker.join()
    return median(map(max, zip(*seconds, strict=True)))


def cases(options: Options) -> Iterator[Case]:
    """Engines in one process, and the loop in two."""
    repeats = 1 if options.quick else options.repeats or 3
    networks = (SMALL,) if options.quick else tuple(NETWORKS)
    for network in networks:
        large = network == LARGE and options.device == 'cpu'
        for tasks in (2,) if options.quick else (4,) if large else (4, 16):
            engines = tuple(ENGINES) if large else (*ENGINES, FUNC)
            arms = {engine: build(network, engine, tasks, options.device) for engine in engines}
            peaks = {
                engine: (build, (network, engine, tasks, options.device), (network, engine, 2, options.device))
                for engine in engines
            }
            yield Case(f'{network}, {tasks} tasks', arms, LOOP, repeats, count=False, peaks=peaks)
        if network != SMALL:
            arms = {engine: build(network, engine, 1, options.device, 5) for engine in (KEPT, AGAIN)}
            # The small network first, for what every process has.
            warm = (SMALL, KEPT, 1, options.device)
            peaks = {engine: (build, (network, engine, 1, options.device, 5), warm) for engine in arms}
            yield Case(f'{network}, 1 task of 5 shots', arms, KEPT, repeats, count=False, peaks=peaks)
        if options.device == 'cpu':
            for tasks in (2,) if options.quick else (4, 16):
                seconds = {count: over_processes(network, tasks, count, repeats) for count in (1, 2)}
                given = {ONE: dict(seconds=seconds[1]), TWO: dict(seconds=seconds[2])}
                yield Case(f'{network}, {tasks} tasks, wall-clock time', {}, ONE, given=given)


def bounds(measured: Measured) -> list[Bound]:
    """Memory of five inner steps done again, and 16 tasks over two processes."""
    reason = 'five graphs of the support and of its gradients are one; those of the queries stay'
    memory = [case for case in measured if case.endswith('1 task of 5 shots')]
    found = {case: ratio(measured, case, AGAIN, KEPT, 'peak') for case in memory}
    kept = [Bound(f'{case}: {AGAIN} over {KEPT}, peak memory', value, 0.5, reason) for case, value in found.items()]
    if cores() < 2:
        return kept
    reason = 'each process has half of the tasks; what is left is one sum of the gradients'
    sixteen = [case for case in measured if case.endswith('16 tasks, wall-clock time')]
    found = {case: ratio(measured, case, ONE, TWO, 'seconds') for case in sixteen}
    return kept + [Bound(f'{case}: 1 process over 2', value, 1.5, reason, '>=') for case, value in found.items()]


BENCHMARK = Benchmark(cases=cases, bounds=bounds, check=check)
