"""Processor time of SPSA beside other layers, and of SPSANet beside other light networks.

``python tools/benchmarks/spsa.py`` writes ``projects/spsa/results/benchmark.json``. On one thread the time is that of
the process, which other work on the machine changes least, and it is the latency; on two it is the shortest latency
seen. Arms take turns. The layers have no projections: where a method has them, only its core is timed. Memory is the
most that torch's tensors take at once during a call, beyond the input and the weights.
"""

import argparse
import io
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import timm
import torch
import torch.nn.functional as F
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mmplugins.spsa import SGE, SimAM, SPSANet, spsa_agg, spsa_gate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, markdown_table, origin, seconds_of, write_json

CHANNELS, HEADS = 64, 4
ATTENTION = 'attention, fused kernel'
BOUNDS = dict(slope=1.1, attention=100, simam=1.3)
# Networks of about as many parameters: SPSANet has to be faster than all of its class.
CLASSES = dict(
    xxs=('mobilevit_xxs', 'mobilevitv2_050', 'edgenext_xx_small'),
    xs=('mobilevit_xs', 'edgenext_x_small'),
    s=('mobilevit_s', 'edgenext_small'),
)
OTHERS = ('efficientvit_m0', 'repvit_m0_9', 'mobilenetv3_small_100')


def tokens(x: Tensor) -> Tensor:
    """View ``(B, C, H, W)`` as ``(B, h, N, d)``."""
    return x.flatten(2).unflatten(1, (HEADS, -1)).transpose(-1, -2)


def attention(x: Tensor) -> Tensor:
    """Softmax attention, torch's fused kernel."""
    t = tokens(x).contiguous()  # it takes nothing else; without the copy the N x N matrices are formed
    return F.scaled_dot_product_attention(t, t, t).transpose(-1, -2).reshape(x.shape)


def efficient_attention(x: Tensor) -> Tensor:
    """Shen et al., WACV 2021: softmax over channels of Q, over tokens of K, one ``d x d`` matrix between."""
    t = tokens(x)
    return (t.softmax(-1) @ (t.softmax(-2).transpose(-1, -2) @ t)).transpose(-1, -2).reshape(x.shape)


def cross_covariance(x: Tensor) -> Tensor:
    """XCiT's attention between channels, as EdgeNeXt uses it."""
    t = x.flatten(2).unflatten(1, (HEADS, -1))
    q = F.normalize(t, dim=-1)
    return ((q @ q.transpose(-1, -2)).softmax(-1) @ t).view_as(x)


LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    'SPSA gate': lambda x: spsa_gate(x, HEADS),
    'SPSA agg': lambda x: spsa_agg(x, HEADS),
    'SimAM': SimAM(),
    'SGE': SGE(CHANNELS, num_heads=HEADS),
    'cross-covariance attention (XCA)': cross_covariance,
    'Efficient attention': efficient_attention,
    ATTENTION: attention,
}


@torch.no_grad()
def peak_memory(call: Callable[[], object]) -> float:
    """MiB, counted from torch's own record of what it allocates and frees."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        call()
    sizes = [event.nbytes() for event in record.profiler.kineto_results.events() if event.name() == '[memory]']
    return float(np.cumsum(sizes).max()) / 2**20


@torch.no_grad()
def bench_layers(sides: list[int], repeats: int) -> dict[str, dict[int, float | None]]:
    """Milliseconds by layer and number of tokens, batch 1; attention only up to 12,544 tokens."""
    torch.set_num_threads(1)
    found: dict[str, dict[int, float | None]] = {name: {} for name in LAYERS}
    for side in sides:
        x = torch.randn(1, CHANNELS, side, side)
        calls = max(1, 20000 // side**2)  # the clock of a process is coarse
        times: dict[str, list[float]] = {name: [] for name in LAYERS}
        for run in range(repeats + 1):
            for name, layer in LAYERS.items():
                slow = name == ATTENTION
                if slow and (side > 112 or run > 1 and side > 56):
                    continue
                if run and not slow:
                    layer(x)  # after another layer the first call pays for memory that was given back
                seconds = seconds_of(lambda f=layer, x=x, n=calls: [f(x) for _ in range(n)], 'cpu')
                if run or slow and side > 56:  # the first warms up
                    times[name].append(seconds / calls * 1000)
        for name, values in times.items():
            found[name][side**2] = median(values) if values else None
    return found


def slope(times: dict[int, float | None], least: int) -> float:
    """Exponent of time over tokens, by least squares, from ``least`` tokens on."""
    points = [(math.log(n), math.log(t)) for n, t in times.items() if t and n >= least]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0])


class Classifier(nn.Module):
    """SPSANet with 1000 classes: logits ``(B, 1000)`` of images ``(B, 3, H, W)``."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.backbone = SPSANet(arch)
        self.head = nn.Linear(SPSANet.arch_settings[arch]['dims'][-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Average the last map and classify it."""
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def build(name: str, side: int) -> nn.Module:
    """Return a network with 1000 classes for images ``(B, 3, side, side)``; re-parameterized if it is meant to be."""
    if name.startswith('spsanet_'):
        arch = name.removeprefix('spsanet_')
        model = Classifier(arch)
    else:
        model = timm.create_model(name, **({'img_size': side} if name.startswith('efficientvit_m') else {}))
    model.eval()
    return reparameterize_model(model) if name.startswith('repvit') else model


def to_session(model: nn.Module, x: Tensor, threads: int, name: str) -> Callable[[], object]:
    """Return a call of ONNX Runtime; its answer is compared with torch's once."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(model, (x,), file, input_names=['x'], opset_version=17, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # A thread that waits by spinning would take the time of whoever comes next.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=['CPUExecutionProvider'])
    feed = {'x': x.numpy()}
    expected = model(x).numpy()
    difference = np.abs(session.run(None, feed)[0] - expected).max() / np.abs(expected).max()
    if not difference < 1e-3:
        raise SystemExit(f'{name}: ONNX Runtime differs from torch by {difference:.1e}')
    return lambda: session.run(None, feed)


@torch.no_grad()
def bench_networks(names: list[str], side: int, repeats: int) -> dict[str, dict]:
    """Parameters, multiplications, memory and milliseconds of every network, batch 1."""
    x = torch.randn(1, 3, side, side)
    models = {name: build(name, side) for name in names}
    found = {}
    for name, model in models.items():
        with FlopCounterMode(display=False) as counter:
            model(x)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        memory = peak_memory(lambda model=model: model(x))
        found[name] = dict(parameters=parameters, mmacs=counter.get_total_flops() / 2e6, memory=memory)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for kind in ('eager', 'onnxruntime'):
            if kind == 'eager':
                calls = {name: (lambda m=model: m(x)) for name, model in models.items()}
            else:
                calls = {name: to_session(model, x, threads, name) for name, model in models.items()}
            times: dict[str, list[float]] = {name: [] for name in names}
            clock = time.process_time if threads == 1 else time.perf_counter
            for run in range(repeats + 1):
                for name, call in calls.items():
                    call()  # after another network the first call pays for memory that was given back
                    start = clock()
                    call()
                    if run:
                        times[name].append((clock() - start) * 1000)
            for name, values in times.items():
                found[name][f'{kind}_{threads}'] = median(values) if threads == 1 else min(values)
    torch.set_num_threads(1)
    return found


def judge(layers: dict, networks: dict) -> dict[str, dict]:
    """Compare with the bounds; a network's bound is the fastest of its class, in each of the four ways to run it."""
    gate = layers['SPSA gate']
    fused, side = layers[ATTENTION], max(n for n, t in layers[ATTENTION].items() if t)
    result = {
        'slope': dict(value=slope(gate, 0), bound=f'≤ {BOUNDS["slope"]}', holds=slope(gate, 0) <= BOUNDS['slope']),
        'slope from 3,136 tokens on': dict(value=slope(gate, 3136), bound='–', holds=None),
        f'times faster than attention at {side:,} tokens': dict(
            value=fused[side] / gate[side],
            bound=f'≥ {BOUNDS["attention"]}',
            holds=fused[side] / gate[side] >= BOUNDS['attention'],
        ),
    }
    for n, milliseconds in gate.items():
        ratio = milliseconds / layers['SimAM'][n]
        result[f'time over SimAM at {n:,} tokens'] = dict(
            value=ratio, bound=f'≤ {BOUNDS["simam"]}', holds=ratio <= BOUNDS['simam']
        )
    for arch, peers in CLASSES.items():
        present = [peer for peer in peers if peer in networks]
        for way in ('eager_1', 'eager_2', 'onnxruntime_1', 'onnxruntime_2') if present else ():
            best = min(present, key=lambda peer: networks[peer][way])
            ratio = networks[f'spsanet_{arch}'][way] / networks[best][way]
            kind, threads = way.split('_')
            result[f'spsanet_{arch} over {best}, {kind}, {threads} thread{"s" * (threads == "2")}'] = dict(
                value=ratio, bound='< 1', holds=ratio < 1
            )
    return result


def table(layers: dict, memory: dict, networks: dict, bounds: dict) -> str:
    """Return the three tables."""
    counts = list(layers['SPSA gate'])
    rows = [
        [
            name,
            *('–' if times[n] is None else f'{times[n]:.3g}' if times[n] < 100 else f'{times[n]:,.0f}' for n in counts),
            f'{memory[name]:.1f}',
        ]
        for name, times in layers.items()
    ]
    parts = ['Layers, milliseconds of processor time, 64 channels, batch 1, by number of tokens; memory at 12,544:']
    parts.append(markdown_table(('layer', *(f'{n:,}' for n in counts), 'MiB'), rows))
    parts.append('Networks, 256 pixels, batch 1, milliseconds; 1 thread: processor time, 2 threads: shortest latency:')
    ways = ('eager, 1', 'eager, 2', 'ONNX Runtime, 1', 'ONNX Runtime, 2')
    header = ('network', 'parameters, M', 'MMACs', 'MiB, eager', *ways)
    rows = [
        [name, f'{n["parameters"] / 1e6:.2f}', f'{n["mmacs"]:.0f}', f'{n["memory"]:.1f}']
        + [f'{n[way]:.1f}' for way in ('eager_1', 'eager_2', 'onnxruntime_1', 'onnxruntime_2')]
        for name, n in networks.items()
    ]
    parts.append(markdown_table(header, rows))
    answers = {True: 'holds', False: '**does not hold**', None: '–'}
    rows = [[name, f'{b["value"]:.2f}', b['bound'], answers[b['holds']]] for name, b in bounds.items()]
    parts.append(markdown_table(('what', 'measured', 'bound', ''), rows))
    return '\n\n'.join(parts)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sides', type=int, nargs='+', default=[14, 28, 56, 112, 256], help='of the maps')
    parser.add_argument('--repeats', type=int, default=15, help='of a layer and of a network (default 15)')
    parser.add_argument('--image-size', type=int, default=256)
    parser.add_argument('--networks', nargs='+', help='names of timm or spsanet_*; default: ours and eleven others')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/spsa/results/benchmark.json')
    args = parser.parse_args()
    start = time.time()
    default = [f'spsanet_{arch}' for arch in CLASSES] + [name for peers in CLASSES.values() for name in peers]
    layers = bench_layers(args.sides, args.repeats)
    x = torch.randn(1, CHANNELS, 112, 112)
    memory = {name: peak_memory(lambda layer=layer: layer(x)) for name, layer in LAYERS.items()}
    networks = bench_networks(args.networks or [*default, *OTHERS], args.image_size, args.repeats)
    bounds = judge(layers, networks)
    results = dict(layers=layers, memory=memory, networks=networks, bounds=bounds)
    text = table(**results)
    seconds = time.time() - start
    write_json(args.out, dict(table=text, **results, **origin(seconds, 'timm', 'onnxruntime', 'onedl-mmpretrain')))
    print(text)
    print(f'\nwritten to {args.out}; {seconds:.0f} s')


if __name__ == '__main__':
    main()
