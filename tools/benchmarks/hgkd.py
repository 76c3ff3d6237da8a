"""Speed and memory of the sparse ResNet-50 against mmpretrain's dense-masked SparK encoder on the same work.

``python tools/benchmarks/hgkd.py`` writes ``projects/hgkd/results/benchmark.json`` and prints a table.

Forward and backward of the whole encoder in training mode, same weights, images and masks; the four maps of stages are
compared first. Each arm gives maps ``(B, C, H, W)``, so ``rows`` and ``spconv`` pay for putting their rows back. The
mask is new in every run: what is computed from it once for all layers is part of the time.

Arms take turns and the median counts. One thread: processor time of this process, which others on the machine disturb
little. Two threads: wall-clock time, which needs a quiet machine; the load average is written down. Memory is what is
kept for the backward pass after the forward pass: bytes of the different storages that autograd saves, without
parameters. With CUDA: time between events, and ``torch.cuda.max_memory_allocated`` beside it.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from mmpretrain.models import SparseResNet
from mmpretrain.models.utils.sparse_modules import SparseHelper
from torch import Tensor, nn

from mmplugins.hgkd import HGKDSparseResNet, draw_cells

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, markdown_table, origin, write_json

BOUNDS = {0.4: 0.65, 0.25: 0.55}  # time of rows / time of mmpretrain, by visible share
HOST, ENGINES = 'mmpretrain', ('dense', 'rows', 'spconv')
CELL = 32


class Host(nn.Module):
    """mmpretrain's encoder, called as its SparK calls it."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.net = SparseResNet(depth, out_indices=(0, 1, 2, 3), norm_cfg=dict(type='BN'))

    def forward(self, images: Tensor, cells: Tensor) -> tuple[Tensor, ...]:
        """Maps of the stages."""
        SparseHelper._cur_active = cells
        return self.net(images * cells.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3))


def make_arms(depth: int, device: str) -> dict[str, nn.Module]:
    """Encoders with the same weights."""
    torch.manual_seed(0)
    host = Host(depth)
    arms = {HOST: host}
    for engine in ENGINES:
        arms[engine] = HGKDSparseResNet(depth, engine, norm_cfg=dict(type='BN'))
        arms[engine].load_state_dict(host.net.state_dict())
    return {name: net.to(device) for name, net in arms.items()}


def step(net: nn.Module, images: Tensor, cells: Tensor, grads: list[Tensor]) -> None:
    """Forward and backward."""
    torch.autograd.backward(net(images, cells), grads)
    net.zero_grad()


def seconds_of(function: Callable, clock: Callable[[], float], device: str) -> float:
    """Time of a call."""
    if device == 'cuda':
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        function()
        events[1].record()
        torch.cuda.synchronize()
        return events[0].elapsed_time(events[1]) / 1000
    start = clock()
    function()
    return clock() - start


def kept_bytes(net: nn.Module, images: Tensor, cells: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [images, *net.parameters(), *net.buffers()]}
    kept, alive = {}, []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())  # else an address could come twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(images, cells)
    del out
    return sum(kept.values())


def differences(arms: dict[str, nn.Module], images: Tensor, cells: Tensor) -> dict[str, float]:
    """Largest difference to mmpretrain's maps, relative to their largest value; in float64, where rounding is small."""
    outs = {}
    for name, net in arms.items():
        with torch.no_grad():
            outs[name] = net.double()(images.double(), cells)
        net.float()
    return {
        name: max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(outs[name], outs[HOST], strict=True))
        for name in ENGINES
    }


def bench(args: argparse.Namespace, device: str, visible: float) -> list[dict]:
    """All arms on one mask ratio of one device: for each number of threads seconds and ratios, and the memory."""
    arms = make_arms(args.depth, device)
    side = args.size // CELL
    images = torch.randn(args.images, 3, args.size, args.size, device=device)
    masks = [draw_cells(args.images, (side, side), 1 - visible).to(device) for _ in range(args.repeats + 1)]
    with torch.no_grad():
        grads = [torch.randn_like(out) for out in arms['dense'](images, masks[0])]
    same = dict(
        differences=differences(arms, images, masks[0]),
        kept_mib={name: round(kept_bytes(net, images, masks[0]) / 2**20, 1) for name, net in arms.items()},
    )
    if device == 'cuda':
        same['peak_mib'] = {name: peak_mib(net, images, masks[0], grads) for name, net in arms.items()}
    cases = []
    for threads in (1, 2) if device == 'cpu' else (1,):
        torch.set_num_threads(threads)
        case = dict(device=device, threads=threads, visible=visible, load=round(os.getloadavg()[0], 1), **same)
        case.update(measure(arms, images, masks, grads, time.process_time if threads == 1 else time.perf_counter))
        case['bound'] = BOUNDS[visible] if device == 'cpu' else None
        case['holds'] = None if case['bound'] is None else case['ratio']['rows'] <= case['bound']
        print({key: case[key] for key in ('device', 'threads', 'visible', 'load', 'seconds', 'ratio')}, flush=True)
        cases.append(case)
    return cases


def measure(
    arms: dict[str, nn.Module], images: Tensor, masks: list[Tensor], grads: list[Tensor], clock: Callable[[], float]
) -> dict:
    """Median seconds of each arm, and of each engine the median ratio to mmpretrain in the same turn."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number, cells in enumerate(masks):
        for name, net in arms.items():
            seconds = seconds_of(
                lambda net=net, cells=cells: step(net, images, cells, grads), clock, images.device.type
            )
            if number:  # the first is to warm up
                times[name].append(seconds)
    ratios = {name: median(a / b for a, b in zip(times[name], times[HOST], strict=True)) for name in ENGINES}
    return dict(
        seconds={name: round(median(values), 4) for name, values in times.items()},
        ratio={name: round(value, 3) for name, value in ratios.items()},
    )


def peak_mib(net: nn.Module, images: Tensor, cells: Tensor, grads: list[Tensor]) -> float:
    """Most CUDA memory of a step beyond what was there before it."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(net, images, cells, grads)
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def table_of(cases: list[dict]) -> str:
    """The table for the README."""
    rows = []
    for case in cases:
        where = 'CUDA' if case['device'] == 'cuda' else f'CPU, {case["threads"]} thread{"s" * (case["threads"] > 1)}'
        share = f'{100 * case["visible"]:.0f} %'
        for name in (HOST, *ENGINES):
            bound = f'≤ {case["bound"]:.2f}' if name == 'rows' and case['bound'] else '–'
            ratio = '1' if name == HOST else f'{case["ratio"][name]:.2f}'
            rows.append(
                (where, share, name, f'{case["seconds"][name]:.2f}', ratio, bound, f'{case["kept_mib"][name]:.0f}')
            )
    return markdown_table(('on', 'visible', 'engine', 's / step', 'ratio', 'bound', 'kept MiB'), rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--depth', type=int, default=50, help='of the ResNet')
    parser.add_argument('--images', type=int, default=2, help='of a step')
    parser.add_argument('--size', type=int, default=224, help='side of an image in pixels, a multiple of 32')
    parser.add_argument('--repeats', type=int, default=5, help='turns, each with another mask')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/hgkd/results/benchmark.json')
    args = parser.parse_args()
    start, before = time.time(), torch.get_num_threads()
    devices = ['cpu'] + ['cuda'] * torch.cuda.is_available()
    cases = [case for device in devices for visible in BOUNDS for case in bench(args, device, visible)]
    cases.sort(key=lambda case: (case['device'], case['threads']))
    torch.set_num_threads(before)
    results = dict(
        peer="mmpretrain's SparseResNet, dense-masked, called as its SparK does",
        work=f'ResNet-{args.depth}, forward and backward, {args.images} images of {args.size} px, float32',
        cases=cases,
        table=table_of(cases),
        **origin(time.time() - start, 'mmpretrain', 'onedl-mmpretrain', 'spconv'),
    )
    write_json(args.out, results)
    print(results['table'])
    print(f'written to {args.out}; {results["seconds"]} s')


if __name__ == '__main__':
    main()
