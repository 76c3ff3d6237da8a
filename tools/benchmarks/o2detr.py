"""Time, operations and memory of O²DETR's encoder against attention, and images a second of the whole model.

``python tools/benchmarks/o2detr.py`` writes ``projects/o2detr/results/benchmark.json`` and prints a table.

Encoder: the tokens of strides 8, 16, 32, 64 of square images, one image, forward and backward, dropout off. ``ours`` is
the default, whose levels stay apart; ``ours, exchange`` adds neighboring levels, which costs more. Peers:

- ``deformable``: mmdet's deformable encoder layer, mmcv's attention (its CUDA kernel on CUDA, else PyTorch);
- ``dense, explicit``: mmdet's DETR layer with mmcv's ``MultiheadAttention``, which keeps the weights of all pairs;
- ``dense, fused``: the same with ``scaled_dot_product_attention``, which does not.

``mixing`` is what stands in the place of attention, with its residual connection; ``layer`` adds norms and FFN. Dense
attention is measured where its matrix is of moderate size. Operations are counted, two a multiply-add; the counter does
not see the bilinear sampling of deformable attention on CUDA, and counts none of it on a CPU.

Whole model: ResNet-50, 300 queries, 6 + 6 layers, forward only, O²DETR against the rotated Deformable DETR of the same
code.

Time on a CPU is the processor time of this process, one thread, medians of runs that take turns, so other processes
disturb the ratios little. Freed memory is kept by the process (with glibc): clearing fresh pages for each large tensor
is work of the system, not of a layer. The slope is that of a line through log time over log tokens.

Shapes: ``N`` tokens, ``D`` channels.
"""

import argparse
import ctypes
import math
import platform
import sys
import time
from pathlib import Path

import torch
from mmengine.registry import DefaultScope
from mmrotate.registry import MODELS
from mmrotate.utils import register_all_modules
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, interleaved, markdown_table, origin, write_json
from o2detr_parts.encoder_case import EncoderCase

BOUNDS = dict(mixing_time=0.12, layer_time=0.4, layer_bytes=0.45, slope=0.05)


def bench_encoder(args: argparse.Namespace, device: str) -> dict:
    """Measure one layer at all sizes, and six."""
    results = {}
    for size in args.sizes:
        with_dense = size <= args.dense_until
        case = EncoderCase(size, args.dims, args.heads, with_dense, device)
        result = dict(tokens=case.num_tokens)
        repeats = args.repeats if size < 1024 else max(args.repeats // 2, 1)
        for what in ('mixing', 'layer'):
            arms = case.arms(case.layers, what)
            if with_dense and size > 256:
                # The slow one is not the yardstick: once is enough.
                slow = {name: arms.pop(name) for name in ('dense, explicit', 'dense, fused')}
                seconds = {**interleaved(arms, repeats, device), **interleaved(slow, 1, device)}
            else:
                seconds = interleaved(arms, repeats, device)
            result[what] = {
                name: dict(seconds=seconds[name], flops=case.flops(name, what), bytes=case.saved_bytes(name, what))
                for name in seconds
            }
        if size <= args.stack_until:
            arms = case.arms(('ours', 'ours, exchange', 'deformable'), 'layer', 6)
            seconds = interleaved(arms, repeats, device)
            result['six layers'] = {name: dict(seconds=value) for name, value in seconds.items()}
        results[size] = result
    return results


def slope(results: dict) -> float:
    """Slope of log seconds over log tokens for our layer, by least squares."""
    points = [(math.log(r['tokens']), math.log(r['layer']['ours']['seconds'])) for r in results.values()]
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def model_cfg(encoder: str, dims: int, num_queries: int) -> dict:
    """Config of a full-size detector with an encoder of a kind."""
    ffn = dict(embed_dims=dims, feedforward_channels=4 * dims, ffn_drop=0.1)
    attention = dict(embed_dims=dims, num_heads=8, dropout=0.1, batch_first=True)
    layer = dict(mixer_cfg=dict(embed_dims=dims)) if encoder == 'dwsep' else dict(self_attn_cfg=attention.copy())
    return dict(
        type='O2DETR',
        num_queries=num_queries,
        backbone=dict(type='mmdet.ResNet', depth=50, out_indices=(1, 2, 3), style='pytorch'),
        neck=dict(
            type='mmdet.ChannelMapper',
            in_channels=[512, 1024, 2048],
            kernel_size=1,
            out_channels=dims,
            act_cfg=None,
            norm_cfg=dict(type='GN', num_groups=32),
            num_outs=4,
        ),
        encoder=dict(type=encoder, num_layers=6, layer_cfg=dict(**layer, ffn_cfg=ffn)),
        decoder=dict(
            num_layers=6,
            return_intermediate=True,
            post_norm_cfg=None,
            layer_cfg=dict(self_attn_cfg=attention.copy(), cross_attn_cfg=attention.copy(), ffn_cfg=ffn),
        ),
        positional_encoding=dict(num_feats=dims // 2, normalize=True, offset=-0.5),
        bbox_head=dict(type='O2DETRHead', num_classes=15, embed_dims=dims),
        test_cfg=dict(max_per_img=300),
    )


def bench_model(args: argparse.Namespace, device: str) -> dict:
    """Measure images a second of both detectors, forward only, and count their parameters."""
    image = torch.rand(1, 3, args.model_size, args.model_size, device=device)
    arms, parameters = {}, {}
    for name, encoder in (('ours', 'dwsep'), ('deformable', 'deformable')):
        model = MODELS.build(model_cfg(encoder, args.dims, args.queries)).to(device).eval()
        parameters[name] = sum(p.numel() for p in model.parameters())

        def forward(model: nn.Module = model) -> None:
            with torch.no_grad():
                model(image, mode='tensor')

        forward()
        arms[name] = forward
    seconds = interleaved(arms, args.repeats, device)
    return dict(
        image_size=args.model_size,
        images_per_second={name: 1 / value for name, value in seconds.items()},
        time_ratio=seconds['ours'] / seconds['deformable'],
        parameters=parameters,
    )


def table(results: dict) -> str:
    """Return the table of all devices."""
    rows = []
    for device, result in results.items():
        for size, cost in result['encoder'].items():
            for what in ('mixing', 'layer', 'six layers'):
                for name, arm in cost.get(what, {}).items():
                    peer = cost[what]['deformable']
                    columns = [f'{arm["seconds"] * 1000:,.1f} ms ({arm["seconds"] / peer["seconds"]:.3f})']
                    if 'flops' in arm:
                        columns.append(f'{arm["flops"] / 1e9:,.2f} ({arm["flops"] / peer["flops"]:.3f})')
                        columns.append(f'{arm["bytes"] / 2**20:,.1f} MiB ({arm["bytes"] / peer["bytes"]:.3f})')
                    rows.append((f'{what}, {size}², {name}', device, *columns, *[''] * (3 - len(columns))))
        model = result['model']
        for name, rate in model['images_per_second'].items():
            ratio = model['images_per_second']['deformable'] / rate
            size = f'{model["parameters"][name] / 1e6:.1f} M parameters'
            what = f'whole model, {model["image_size"]}², {name}'
            rows.append((what, device, f'{rate:.2f} images/s ({ratio:.3f})', '', size))
    header = ('what', 'device', 'time', 'GFLOP', 'kept for backward')
    return markdown_table(header, rows) + '\n\nIn parentheses: over `deformable`.'


def checks(result: dict) -> dict[str, dict]:
    """Compare with the bounds: the worst over all sizes, with and without the exchange."""
    costs = result['encoder'].values()

    def worst(what: str, key: str) -> float:
        arms = ('ours', 'ours, exchange')
        return max(cost[what][arm][key] / cost[what]['deformable'][key] for cost in costs for arm in arms)

    values = dict(
        mixing_time=worst('mixing', 'seconds'),
        layer_time=worst('layer', 'seconds'),
        layer_bytes=worst('layer', 'bytes'),
        slope=abs(result['slope'] - 1),
    )
    return {key: dict(value=value, bound=BOUNDS[key], holds=value <= BOUNDS[key]) for key, value in values.items()}


def keep_freed_memory() -> None:
    """Tell glibc's malloc to hand no memory back to the system."""
    if platform.libc_ver()[0] == 'glibc':
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def devices_of(args: argparse.Namespace) -> list[str]:
    """Return the devices to measure."""
    return [args.device] if args.device else ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]


def measure(args: argparse.Namespace, device: str) -> dict:
    """Measure all on a device."""
    encoder = bench_encoder(args, device)
    result = dict(encoder=encoder, slope=slope(encoder), model=bench_model(args, device))
    if device == 'cpu':  # the bounds are those of the PyTorch path
        result['bounds'] = checks(result)
        for key, check in result['bounds'].items():
            answer = 'holds' if check['holds'] else 'does not hold'
            print(f'{key}: {check["value"]:.3f}, bound {check["bound"]}, {answer}')
    return result


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sizes', type=int, nargs='+', default=[256, 512, 1024], help='sides of the images, pixels')
    for name, value, text in (
        ('dims', 256, 'D'),
        ('heads', 8, 'heads of attention'),
        ('repeats', 4, 'runs; half as many from 1024 pixels on'),
        ('dense-until', 512, 'largest image for dense attention'),
        ('stack-until', 512, 'largest image for six layers'),
        ('model-size', 512, 'image of the whole model'),
        ('queries', 300, 'queries of the whole model'),
        ('threads', 1, 'threads of torch'),
    ):
        parser.add_argument(f'--{name}', type=int, default=value, help=f'{text} (default {value})')
    parser.add_argument('--device', choices=('cpu', 'cuda'), help='default: the CPU, and CUDA too if there is one')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/o2detr/results/benchmark.json')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    register_all_modules(init_default_scope=False)
    start = time.time()
    with DefaultScope.overwrite_default_scope('mmrotate'):
        results = {device: measure(args, device) for device in devices_of(args)}
    sizes = {key: value for key, value in vars(args).items() if isinstance(value, int | list)}
    data = dict(table=table(results), results=results, bounds=BOUNDS, sizes=sizes)
    if 'cuda' in results:
        data['gpu'] = torch.cuda.get_device_name()
    write_json(args.out, {**data, **origin(time.time() - start, 'onedl-mmrotate')})
    print(data['table'])
    print(f'written to {args.out}; {time.time() - start:.0f} s')


if __name__ == '__main__':
    main()
