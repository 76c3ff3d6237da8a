"""A benchmark: cases of several arms that do the same work, measured alike, and bounds on what was measured."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from experiments import ROOT
from experiments.frame import measure
from experiments.frame.origin import origin
from experiments.frame.report import bounds_table, markdown_table
from experiments.frame.verdict import FAILS, HOLDS
from mmplugins.utils.atomic import write_text

Measured = dict[str, dict[str, dict[str, float]]]  # case, arm, measure

# Measure, title, unit and what it is divided by.
COLUMNS = (
    ('seconds', 'time, ms', 1e-3),
    ('flops', 'GFLOP, forward', 1e9),
    ('kept', 'kept for backward, MiB', 2**20),
    ('peak', 'peak memory, MiB', 2**20),
    ('kernels', 'kernels', 1),
    ('traffic', 'bytes moved, MiB', 2**20),
    ('syncs', 'host waits', 1),
    ('graphs', 'graphs', 1),
)


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        device: ``'cpu'`` or ``'cuda'``.
        quick: Smallest sizes, one repeat.
        repeats: Of each timing; None leaves it to the case.
        data: Folder of ``--data``, or the benchmark's default.
    """

    device: str
    quick: bool
    repeats: int | None
    data: Path | None


@dataclass(frozen=True)
class Case:
    """The same work done by several arms.

    Attributes:
        name: Title of its rows.
        arms: Name to call. What is to be trained returns a tensor, or a structure of tensors, that needs a gradient: it
            is added up and sent backward, and what it keeps for that is counted. Anything else is only called.
        base: The arm that all ratios are over.
        repeats: Of the timing; the median counts.
        count: Whether kernels and the like are counted too; not for what is no torch.
        compiled: Arm to ``(module, *inputs)`` whose graphs under ``torch.compile`` are counted.
        peaks: Arm to ``(build, args, warm)`` of `measure.peak_bytes`.
        timed: Whether time is measured at all.
        given: Arm to numbers that the case has measured itself, as of several processes.
    """

    name: str
    arms: Mapping[str, Callable[[], object]]
    base: str
    repeats: int = 5
    count: bool = True
    compiled: Mapping[str, tuple] = field(default_factory=dict)
    peaks: Mapping[str, tuple] = field(default_factory=dict)
    timed: bool = True
    given: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Bound:
    """What a benchmark promises.

    Attributes:
        what: In words.
        value: What was measured.
        limit: Bound.
        reason: Why it does not depend on the processor: what is done less, counted. A time without such a reason is
            shown and not bounded.
        side: ``'<='`` or ``'>='``.
    """

    what: str
    value: float
    limit: float
    reason: str
    side: str = '<='

    def to_json(self) -> dict:
        """Return the entry in ``benchmark.json``."""
        holds = self.value <= self.limit if self.side == '<=' else self.value >= self.limit
        shown = {'<=': '≤', '>=': '≥'}[self.side]
        return dict(
            what=self.what, value=self.value, limit=self.limit, side=shown, reason=self.reason,
            verdict=HOLDS if holds else FAILS,
        )  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """The benchmark of a plugin.

    Attributes:
        cases: ``cases(options)`` makes them one at a time, so that one can be freed before the next.
        bounds: From what was measured on a device, by case, arm and measure, to what is promised.
        check: Compares the arms' results before anything is timed; raises if they differ.
        data: Default of ``--data``.
        devices: On which it runs.
        packages: Whose versions matter.
    """

    cases: Callable[[Options], Iterable[Case]]
    bounds: Callable[[Measured], Sequence[Bound]]
    check: Callable[[Options], None] | None = None
    data: Path | None = None
    devices: tuple[str, ...] = ('cpu', 'cuda')
    packages: tuple[str, ...] = ()


def step_of(call: Callable[[], object]) -> Callable[[], None]:
    """Call, and backward where the result needs a gradient."""

    def step() -> None:
        tensors = [leaf for leaf in tree_leaves(call()) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if tensors:
            torch.autograd.backward([tensor.sum() for tensor in tensors])

    return step


def run_case(case: Case, options: Options) -> dict[str, dict[str, float]]:
    """Measure all arms of a case."""
    found: dict[str, dict[str, float]] = {name: {} for name in case.arms}
    steps = {name: step_of(call) for name, call in case.arms.items()}
    if case.timed:
        repeats = 1 if options.quick else options.repeats or case.repeats
        for name, seconds in measure.interleaved(steps, repeats, options.device).items():
            found[name]['seconds'] = seconds
    for name, call in case.arms.items() if case.count else ():
        found[name].update(flops=measure.flops(call), kept=measure.kept_bytes(call))
        with measure.Counter() as counter:
            steps[name]()
        found[name].update(kernels=counter.kernels, traffic=counter.traffic, syncs=counter.syncs)
    for name, (module, *inputs) in case.compiled.items():
        found[name]['graphs'] = measure.graphs(module, *inputs)
    for name, (build, args, warm) in case.peaks.items():
        found.setdefault(name, {})['peak'] = measure.peak_bytes(build, args, warm, options.device)
    for name, numbers in case.given.items():
        found.setdefault(name, {}).update(numbers)
    return found


def ratio(measured: Measured, case: str, ours: str, theirs: str, key: str) -> float:
    """One arm over another."""
    return measured[case][ours][key] / measured[case][theirs][key]


def table_of(measured: Measured, bases: Mapping[str, str]) -> str:
    """Rows of all cases and arms; in parentheses the ratio over the base."""
    rows = []
    for case, arms in measured.items():
        for name, found in arms.items():
            cells = []
            for key, _, unit in COLUMNS:
                base = arms.get(bases[case], {}).get(key)
                digits = 3 if unit != 1 else 12
                text = f'{found[key] / unit:,.{digits}g}' if key in found else ''
                if key in found and base and name != bases[case]:
                    text += f' ({found[key] / base:.3g})'
                cells.append(text)
            rows.append([case, name, *cells])
    return markdown_table(('case', 'arm', *(title for _, title, _ in COLUMNS)), rows)


def build_parser() -> argparse.ArgumentParser:
    """Options of every benchmark."""
    parser = argparse.ArgumentParser(description='Measure the speed and the memory of a plugin against a named peer.')
    parser.add_argument('plugin', help='folder in tools/experiments')
    parser.add_argument('--device', choices=('cpu', 'cuda'), help='default: the CPU, and CUDA too if there is one')
    parser.add_argument('--repeats', type=int, help='of each timing, in the place of those of the cases')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch (default 1)')
    parser.add_argument(
        '--data', type=Path, help='in the place of the default, see the top of the benchmark; needs --out'
    )
    parser.add_argument('--out', type=Path, help='default: projects/<plugin>/results/benchmark.json')
    parser.add_argument('--quick', action='store_true', help='the least that shows that it runs; needs --out')
    return parser


def run(benchmark: Benchmark, args: argparse.Namespace) -> None:
    """Measure, compare with the bounds, write, print.

    Raises:
        SystemExit: Data or the GPU are missing, or the run would overwrite the shipped results with those of something
            else.
    """
    if (args.quick or args.data) and not args.out:
        raise SystemExit('the shipped results are neither of --quick nor of other data: say with --out where these go')
    data = args.data or benchmark.data
    if data and not data.is_dir():
        raise SystemExit(f'{data} does not exist: name the folder with --data, see tools/experiments/{args.plugin}')
    devices = [args.device] if args.device else ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]
    devices = [device for device in devices if device in benchmark.devices]
    if not devices:
        print(f'{args.plugin} has nothing to measure on {args.device}: it runs on {", ".join(benchmark.devices)}')
        return
    if 'cuda' in devices and not torch.cuda.is_available():
        raise SystemExit('--device cuda: this torch sees no GPU')
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False  # what is compared in float32 is computed in it
    start = time.time()
    measured: Measured = {}
    bases: dict[str, str] = {}
    bounds: list[dict] = []
    for device in devices:
        options = Options(device, args.quick, args.repeats, data)
        suffix = '' if device == 'cpu' else ', CUDA'
        if benchmark.check:
            benchmark.check(options)
        found: Measured = {}
        for case in benchmark.cases(options):
            found[case.name], bases[case.name + suffix] = run_case(case, options), case.base
            print(f'{case.name}{suffix}: done after {time.time() - start:.0f} s', flush=True)
        bounds += [replace(bound, what=bound.what + suffix).to_json() for bound in benchmark.bounds(found)]
        measured.update({name + suffix: arms for name, arms in found.items()})
    record = dict(
        **origin(time.time() - start, *benchmark.packages),
        threads=args.threads,
        table=f'{table_of(measured, bases)}\n\nIn parentheses: over the arm without parentheses of the same case.',
        bounds=bounds,
        measured=measured,
    )
    if 'cuda' in devices:
        record['gpu'] = torch.cuda.get_device_name()
    out = args.out or ROOT / 'projects' / args.plugin / 'results/benchmark.json'
    write_text(out, json.dumps(record, indent=1) + '\n')
    print(f'{record["table"]}\n\n{bounds_table(record)}\n\nwritten to {out}; {record["seconds"]} s')
