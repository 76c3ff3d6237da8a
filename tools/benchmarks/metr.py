"""Speed and memory of METR's decoder and matcher against what mmdet's own classes would do on the same work.

``python tools/benchmarks/metr.py`` writes ``projects/metr/results/benchmark.json`` and prints a table.

Decoder, forward and backward, same weights and inputs: one memory an image, against the plain way (that of the
released code) in which mmdet's decoder gets a batch of ``B K`` with memory, references and valid ratios repeated ``K``
times. The copying is part of the plain way's time. Outputs and gradients are compared first.

Matcher: groups, against one mmdet ``HungarianAssigner`` over all ``K Q`` queries. The baseline gets the same boxes, and
the same logits in a ``(K Q, K)`` matrix, each query's in the column of its category and -20 elsewhere; making the
matrix is not timed. It solves another problem (it may pair across categories), which is why ours is compared with
brute force and not with it.

Time on a CPU is the processor time of this process, so other processes disturb it little. Peak memory on a CPU is that
of a fresh process: the high-water mark of resident memory during one step minus what was resident before it, with
malloc told to hand freed blocks back at once. With CUDA: events and ``torch.cuda.max_memory_allocated``.

Shapes: ``B`` images, ``K`` groups of ``Q`` queries, ``N`` memory tokens, ``D`` channels.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmdet.models.layers import DinoTransformerDecoder
from mmdet.utils import register_all_modules
from torch import Tensor, nn

from mmplugins.metr.decoder import METRDecoder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, interleaved, markdown_table, origin, resident, write_json
from metr_parts.matching import bench_matching

BOUNDS = dict(time=0.3, peak_memory=0.55, memory_side=0.1, matching=5.0)


class DecoderCase:
    """Inputs and both decoders. Both see the same weights, queries, references and memory."""

    def __init__(self, args: argparse.Namespace, device: str, ffn: int, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        made = dict(device=device, dtype=dtype)
        self.num_groups, self.num_images, dims = args.groups, args.images, args.dims
        self.shapes = torch.tensor([(args.image_size // s,) * 2 for s in (8, 16, 32, 64)], device=device)
        tokens = self.shapes.prod(1)
        self.starts = torch.cat([tokens.new_zeros(1), tokens.cumsum(0)[:-1]])
        layer = dict(
            self_attn_cfg=dict(embed_dims=dims, num_heads=8, dropout=0.0, batch_first=True),
            cross_attn_cfg=dict(embed_dims=dims, num_levels=4, dropout=0.0, batch_first=True),
            ffn_cfg=dict(embed_dims=dims, feedforward_channels=ffn, ffn_drop=0.0),
        )
        cfg = dict(num_layers=args.layers, layer_cfg=layer, return_intermediate=True, post_norm_cfg=None)
        self.ours, self.plain = METRDecoder(**cfg).to(**made), DinoTransformerDecoder(**cfg).to(**made)
        for name, parameter in self.ours.named_parameters():
            # The start values make all queries look at the same places; these do not.
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2 if 'sampling_offsets' in name else 0.03)
        self.plain.load_state_dict(self.ours.state_dict())
        self.box_branches = nn.ModuleList([nn.Linear(dims, 4) for _ in range(args.layers)]).to(**made)
        num_queries = args.groups * args.queries
        self.query = torch.randn(args.images, num_queries, dims, **made, requires_grad=True)
        self.memory = torch.randn(args.images, int(tokens.sum()), dims, **made, requires_grad=True)
        self.references = torch.rand(args.images, num_queries, 4, **made) * 0.8 + 0.1
        self.valid_ratios = torch.ones(args.images, 4, 2, **made)

    def run_ours(self) -> tuple[Tensor, Tensor]:
        """METR's decoder; hidden states ``(layers, B, K Q, D)`` and last references ``(B, K Q, 4)``."""
        hidden, references = self.ours(
            query=self.query,
            value=self.memory,
            reference_points=self.references,
            valid_ratios=self.valid_ratios,
            num_groups=self.num_groups,
            **self._shared(),
        )
        return hidden, references[-1]

    def run_plain(self) -> tuple[Tensor, Tensor]:
        """The decoder of mmdet on ``B K`` copies; the same outputs."""
        copies = (x.repeat_interleave(self.num_groups, dim=0) for x in (self.memory, self.valid_ratios))
        memory, valid_ratios = copies
        query, references = (x.reshape(memory.size(0), -1, x.size(-1)) for x in (self.query, self.references))
        hidden, references = self.plain(
            query=query,
            value=memory,
            self_attn_mask=None,
            reference_points=references,
            valid_ratios=valid_ratios,
            **self._shared(),
        )
        return hidden.reshape(len(hidden), *self.query.shape), references[-1].reshape(self.references.shape)

    def _shared(self) -> dict:
        return dict(
            key_padding_mask=None,
            spatial_shapes=self.shapes,
            level_start_index=self.starts,
            reg_branches=self.box_branches,
        )

    def step(self, arm: str) -> tuple[Tensor, ...]:
        """Forward and backward of an arm; outputs and the gradients of memory and queries."""
        self.memory.grad = self.query.grad = None
        hidden, references = getattr(self, f'run_{arm}')()
        (hidden.pow(2).mean() + references.mean()).backward()
        return hidden.detach(), references.detach(), self.memory.grad, self.query.grad

    def saved_bytes(self, arm: str) -> dict[str, int]:
        """Bytes that the forward pass keeps for backward: on the memory's side (``N`` tokens) and all others."""
        maps = {tuple(shape) for shape in self.shapes.tolist()}
        num_tokens = self.memory.size(1)
        side: dict[int, tuple[int, bool]] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            of_memory = any(n and n % num_tokens == 0 for n in tensor.shape) or tuple(tensor.shape[-2:]) in maps
            if not isinstance(tensor, nn.Parameter):
                side[storage.data_ptr()] = (storage.nbytes(), of_memory)
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = getattr(self, f'run_{arm}')()
        del outputs
        return dict(
            memory_side=sum(size for size, of_memory in side.values() if of_memory),
            query_side=sum(size for size, of_memory in side.values() if not of_memory),
        )


def probe(args: argparse.Namespace) -> None:
    """In a fresh process: peak memory of one step of one arm, as one line of JSON."""
    case = DecoderCase(args, 'cpu', args.ffn[0])
    before = resident('VmRSS')
    case.step(args.probe)
    peak = resident('VmHWM') - before
    print(json.dumps(dict(peak=peak, **case.saved_bytes(args.probe))))


def cpu_memory(arm: str, ffn: int) -> dict[str, int]:
    """Run :func:`probe` for an arm."""
    env = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536', 'MALLOC_ARENA_MAX': '1'}
    command = [sys.executable, __file__, *sys.argv[1:], '--probe', arm, '--ffn', str(ffn)]
    done = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def cuda_memory(case: DecoderCase, arm: str) -> dict[str, int]:
    """Peak memory of one step of one arm on the GPU."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    case.step(arm)
    return dict(peak=torch.cuda.max_memory_allocated() - before, **case.saved_bytes(arm))


def compare(args: argparse.Namespace, device: str, ffn: int) -> list[float]:
    """Return the largest relative differences of outputs and gradients, in float64.

    In float32 a sampling point next to the border of a cell may round to either side, and its gradient jumps there.
    """
    case = DecoderCase(args, device, ffn, torch.float64)
    pairs = zip(case.step('ours'), case.step('plain'), strict=True)
    return [float((ours - plain).abs().max() / plain.abs().max().clamp(min=1e-12)) for ours, plain in pairs]


def bench_decoder(args: argparse.Namespace, device: str, ffn: int) -> dict:
    """Compare the two decoders at a width of the FFN."""
    differences = compare(args, device, ffn)
    if max(differences) > 1e-9:
        raise SystemExit(f'the decoders differ: {differences} (hidden states, references, two gradients)')
    case = DecoderCase(args, device, ffn)
    arms = {arm: lambda arm=arm: case.step(arm) for arm in ('ours', 'plain')}
    seconds = interleaved(arms, args.repeats, device)
    memory = {arm: cpu_memory(arm, ffn) if device == 'cpu' else cuda_memory(case, arm) for arm in arms}
    return dict(
        max_difference=max(differences),
        seconds=seconds,
        time_ratio=seconds['ours'] / seconds['plain'],
        bytes=memory,
        **{f'{key}_ratio': memory['ours'][key] / memory['plain'][key] for key in memory['ours']},
    )


def table(results: dict) -> str:
    """Return the table of all devices."""
    rows = []
    for device, result in results.items():
        matching = result['matching']
        for ffn, decoder in result['decoder'].items():
            what = f'decoder, FFN {ffn}'
            for label, key, bound in (
                ('peak memory', 'peak', 'peak_memory'),
                ('kept for backward, memory side', 'memory_side', 'memory_side'),
                ('kept for backward, query side', 'query_side', None),
            ):
                sizes = (f'{decoder["bytes"][arm][key] / 2**20:,.0f} MiB' for arm in ('ours', 'plain'))
                limit = f'≤ {BOUNDS[bound]}' if bound else '–'
                rows.append((f'{what}, {label}', device, *sizes, f'{decoder[f"{key}_ratio"]:.3f}', limit))
            times = (f'{decoder["seconds"][arm]:.2f} s' for arm in ('ours', 'plain'))
            rows.append((f'{what}, time', device, *times, f'{decoder["time_ratio"]:.3f}', f'≤ {BOUNDS["time"]}'))
        times = (f'{matching["seconds"][arm] * 1000:.1f} ms' for arm in ('ours', 'plain'))
        rows.append(('matching, time', device, *times, f'1 / {matching["speedup"]:.1f}', f'≤ 1 / {BOUNDS["matching"]}'))
    return markdown_table(('what', 'device', 'ours', 'plain mmdet', 'ratio', 'bound'), rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value, text in (
        ('groups', 20, 'K'),
        ('queries', 100, 'Q'),
        ('images', 2, 'B of the decoder'),
        ('dims', 256, 'D'),
        ('layers', 6, 'decoder layers'),
        ('image-size', 512, 'pixels; memory tokens are those of strides 8, 16, 32, 64'),
        ('matching-images', 4, 'B of the matcher'),
        ('max-boxes', 30, 'boxes of a category are 0 to this many'),
        ('repeats', 5, 'runs of the decoder; the matcher runs three times as often'),
        ('threads', 1, 'threads of torch'),
    ):
        parser.add_argument(f'--{name}', type=int, default=value, help=f'{text} (default {value})')
    text = "widths of the decoder's FFN: 1024 in Deformable DETR, 2048 in DINO"
    parser.add_argument('--ffn', type=int, nargs='+', default=[1024, 2048], help=text)
    parser.add_argument('--device', choices=('cpu', 'cuda'), help='default: the CPU, and CUDA too if there is one')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/metr/results/benchmark.json')
    parser.add_argument('--probe', choices=('ours', 'plain'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    register_all_modules()
    if args.probe:
        return probe(args)
    start = time.time()
    devices = [args.device] if args.device else ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]
    results = {
        device: dict(
            decoder={ffn: bench_decoder(args, device, ffn) for ffn in args.ffn}, matching=bench_matching(args, device)
        )
        for device in devices
    }
    sizes = {key: value for key, value in vars(args).items() if isinstance(value, int)}
    data = dict(
        table=table(results), results=results, bounds=BOUNDS, sizes=sizes, **origin(time.time() - start)
    )  # fmt: skip
    if 'cuda' in devices:
        data['gpu'] = torch.cuda.get_device_name()
    write_json(args.out, data)
    print(table(results))
    print(f'written to {args.out}; {data["seconds"]} s')


if __name__ == '__main__':
    main()
