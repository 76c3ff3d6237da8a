"""Speed and memory of CAE's pretraining step against mmpretrain's own CAE, and against encoding all patches.

``python tools/benchmarks/cae.py`` writes ``projects/cae/results/benchmark.json`` and prints a table. A step is forward
and backward of images of 224 pixels, patch 16, with 75 patches masked, which is the only number that mmpretrain's CAE
can be built for. Targets are computed beforehand for all arms, and there is no DropPath.

* ``ours``: CAE; the same weights as ``host``, and outputs, losses and gradients are compared first.
* ``host``: mmpretrain's CAE: a second encoder, to which all weights are copied each step, and attention in parts.
* ``v2``: our CAE v2, supervised on CLS, visible and masked tokens; the regressor as in ``ours``, no decoder.
* ``beit``: mmpretrain's BEiT: all patches go through the encoder, the masked ones as mask tokens; 8192 tokens.

Time on a CPU is the processor time of this process, so other processes disturb it little; the arms take turns. Peak
memory on a CPU is that of a fresh process: the high-water mark of resident memory after a step minus what was resident
before the model was built, with malloc told to hand freed blocks back at once. It is the memory of weights, gradients
and activations; with CUDA the same by ``torch.cuda.max_memory_allocated``, and time by events.

Shapes: ``B`` images, ``N`` patches.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmpretrain.models import CAE, CAEHead
from mmpretrain.models.heads import BEiTV1Head
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from mmpretrain.utils import register_all_modules
from torch import Tensor, nn

import mmplugins.cae  # noqa: F401

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, interleaved, markdown_table, origin, resident, write_json

BOUNDS = dict(memory=0.8, time=0.95)
WIDTHS = dict(small=384, base=768)
GRID, MASKED, TOKENS, CHANNELS = (14, 14), 75, 8192, 512
NUM_PATCHES = GRID[0] * GRID[1]
ARMS = ('ours', 'host', 'v2', 'beit')


class Given(nn.Module):
    """A target that was computed before; the same for every call."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.register_buffer('target', target, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return it."""
        return self.target


class IdsHead(CAEHead):
    """The host's head for token ids instead of the tokenizer's logits."""

    def _generate_target(self, logits_target: Tensor) -> Tensor:
        return logits_target


class IdsBEiTHead(BEiTV1Head):
    """The host's head for token ids instead of the tokenizer's logits."""

    def loss(self, feats: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of the masked tokens."""
        mask = mask.flatten(1).bool()
        return self.loss_module(self.cls_head(feats[:, 1:][mask]), target[mask])


def make_batch(images: int, device: str) -> tuple[list[Tensor], list[DataSample], Tensor, Tensor]:
    """Return two views, data samples with masks, token ids ``(B, N)`` and features ``(B, 1 + N, 512)``."""
    generator = torch.Generator().manual_seed(0)
    view = torch.randn(images, 3, 224, 224, generator=generator).to(device)
    ranks = torch.rand(images, NUM_PATCHES, generator=generator).argsort(1).argsort(1)
    masks = (ranks < MASKED).to(device).unflatten(1, GRID)
    ids = torch.randint(TOKENS, (images, NUM_PATCHES), generator=generator).to(device)
    features = torch.randn(images, 1 + NUM_PATCHES, CHANNELS, generator=generator).to(device)
    return [view, view], [DataSample().set_mask(mask) for mask in masks], ids, features


def build(arm: str, size: str, ids: Tensor, features: Tensor) -> nn.Module:
    """Return the model of an arm."""
    width = WIDTHS[size]
    arch = dict(embed_dims=width, num_layers=12, num_heads=12, feedforward_channels=4 * width)
    neck = dict(type='CAERegressorNeck', embed_dims=width, grid_size=GRID, regressor_depth=4, decoder_depth=4)
    match arm:
        case 'ours':
            cfg = dict(type='CAEv1', backbone=dict(type='CAEViT', arch=arch), neck=neck, head=dict(type='CAEv1Head'))
        case 'v2':
            neck.update(decoder_depth=0, num_classes=CHANNELS)
            cfg = dict(type='CAEv2', backbone=dict(type='CAEViT', arch=arch), neck=neck, head=dict(type='CAEv2Head'))
        case 'host':
            cfg = dict(
                type='CAE',
                backbone=dict(type='CAEPretrainViT', arch=arch, layer_scale_init_value=0.1),
                neck=dict(
                    type='CAENeck',
                    embed_dims=width,
                    regressor_depth=4,
                    decoder_depth=4,
                    layer_scale_init_value=0.1,
                    mask_tokens_num=MASKED,
                ),
                head=IdsHead(loss=dict(type='CAELoss', lambd=2)),
            )
        case 'beit':
            backbone = dict(type='BEiTPretrainViT', arch=arch, use_abs_pos_emb=True, use_shared_rel_pos_bias=False)
            head = IdsBEiTHead(width, TOKENS, loss=dict(type='CrossEntropyLoss'))
            cfg = dict(type='BEiT', backbone={**backbone, 'patch_cfg': {}}, head=head)
    model = MODELS.build(dict(cfg, target_generator=Given(features if arm == 'v2' else ids)))
    return model.to(ids.device).train()


def spread_weights(model: nn.Module) -> None:
    """Give all trained weights values of their own, from a seed, so that a difference shows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.02)


def copy_weights(ours: nn.Module, host: CAE) -> None:
    """Give the host's model, and its second encoder, our weights."""
    state = {name: value for name, value in ours.state_dict().items() if name != 'neck.pos_embed'}
    missing, unexpected = host.load_state_dict(state, strict=False)
    if unexpected or any(not name.startswith('teacher.') for name in missing):
        raise SystemExit(f'weights do not fit: missing {missing[:3]}, unexpected {unexpected[:3]}')
    host.teacher.load_state_dict(host.backbone.state_dict())
    host.teacher.requires_grad_(False)


def step(model: nn.Module, batch: tuple) -> dict[str, Tensor]:
    """Forward and backward; return the losses that were added up."""
    model.zero_grad()
    losses = model.loss(batch[0], batch[1])
    used = {name: value for name, value in losses.items() if 'loss' in name}
    sum(used.values()).backward()
    return used


def compare(ours: nn.Module, host: CAE, batch: tuple) -> dict[str, float]:
    """Return the largest differences of latents and logits, and the relative ones of loss and gradients."""
    mask = torch.stack([sample.mask for sample in batch[1]]).flatten(1)
    table = ours.backbone.pos_embed[:, 1:].expand(len(mask), -1, -1)
    with torch.no_grad():
        latents, pred = ours.reconstruct(batch[0][0], mask)
        tokens = host.backbone(batch[0][0], mask)
        places = (table[chosen].unflatten(0, (len(mask), -1)) for chosen in (mask, ~mask))
        host_pred, host_latents = host.neck(tokens[:, 1:], *places)
    one, other = (float(sum(step(model, batch).values())) for model in (ours, host))
    theirs = dict(host.named_parameters())
    pairs = [(own.grad, theirs[name].grad) for name, own in ours.named_parameters() if own.grad is not None]
    # Of the largest gradient of all: that of the keys' biases is zero, and nothing but noise in both.
    scale = max(float(gradient.abs().max()) for _, gradient in pairs)
    return dict(
        latents=float((latents - host_latents).abs().max()),
        logits=float((pred - host_pred).abs().max()),
        loss=abs(one - other) / other,
        gradients=max(float((a - b).abs().max()) for a, b in pairs) / scale,
    )


def probe(args: argparse.Namespace) -> None:
    """In a fresh process: peak memory of one step of one arm, as one line of JSON."""
    arm, size = args.probe
    once = make_batch(1, 'cpu')
    step(build(arm, 'small', *once[2:]), once)  # libraries take memory of their own at their first call
    batch = make_batch(args.images, 'cpu')
    before = resident('VmRSS')
    step(build(arm, size, *batch[2:]), batch)
    print(json.dumps(resident('VmHWM') - before))


def cpu_memory(arm: str, size: str, images: int) -> int:
    """Run :func:`probe` for an arm; bytes."""
    env = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536', 'MALLOC_ARENA_MAX': '1'}
    command = [sys.executable, __file__, '--images', str(images), '--probe', arm, size]
    done = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def cuda_memory(arm: str, size: str, images: int) -> int:
    """Peak memory of the model and one step of an arm on the GPU; bytes."""
    batch = make_batch(images, 'cuda')
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(build(arm, size, *batch[2:]), batch)
    return torch.cuda.max_memory_allocated() - before


def bench(size: str, args: argparse.Namespace, device: str) -> dict:
    """Compare the arms at a size of the model."""
    get_memory = cpu_memory if device == 'cpu' else cuda_memory
    memory = {arm: get_memory(arm, size, args.images) for arm in ARMS}
    batch = make_batch(args.images, device)
    models = {arm: build(arm, size, *batch[2:]) for arm in ARMS}
    spread_weights(models['ours'])
    copy_weights(models['ours'], models['host'])
    differences = compare(models['ours'], models['host'], batch)
    if max(differences.values()) > 1e-5:
        raise SystemExit(f'ours and the host differ: {differences}')

    steps = {arm: lambda model=model: step(model, batch) for arm, model in models.items()}
    seconds = interleaved(steps, args.repeats, device)
    pairs = (('ours', 'host'), ('v2', 'ours'), ('ours', 'beit'), ('v2', 'beit'))
    ratios = {f'{a}/{b}': dict(time=seconds[a] / seconds[b], memory=memory[a] / memory[b]) for a, b in pairs}
    return dict(differences=differences, seconds=seconds, bytes=memory, ratios=ratios)


NAMES = dict(
    ours='CAE',
    host="mmpretrain's CAE",
    v2='CAE v2',
    beit='BEiT, all patches',
)


def table(results: dict) -> str:
    """Return the table of all devices."""
    rows = []
    for device, sizes in results.items():
        for size, result in sizes.items():
            for pair, ratio in result['ratios'].items():
                a, b = pair.split('/')
                for key, unit in (('memory', 'bytes'), ('time', 'seconds')):
                    values = [result[unit][arm] for arm in (a, b)]
                    texts = [f'{x / 2**20:,.0f} MiB' if key == 'memory' else f'{x:.3f} s' for x in values]
                    bound = f'≤ {BOUNDS[key]}' if pair == 'ours/host' else '–'
                    what = f'ViT-{size[0].upper()}, {"peak memory" if key == "memory" else "time of a step"}'
                    rows.append(
                        (what, device, f'{NAMES[a]}: {texts[0]}', f'{NAMES[b]}: {texts[1]}', f'{ratio[key]:.3f}', bound)
                    )
    return markdown_table(('what', 'device', 'ours', 'against', 'ratio', 'bound'), rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sizes', nargs='+', choices=sorted(WIDTHS), default=['small', 'base'])
    parser.add_argument('--images', type=int, default=8, help='B (default 8)')
    parser.add_argument(
        '--repeats', type=int, default=3, help='steps of each arm, of which the median counts (default 3)'
    )
    parser.add_argument('--threads', type=int, default=1, help='threads of torch (default 1)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), help='default: the CPU, and CUDA too if there is one')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/cae/results/benchmark.json')
    parser.add_argument('--probe', nargs=2, metavar=('ARM', 'SIZE'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    register_all_modules()
    if args.probe:
        return probe(args)
    start = time.time()
    devices = [args.device] if args.device else ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]
    results = {device: {size: bench(size, args, device) for size in args.sizes} for device in devices}
    data = dict(
        table=table(results),
        results=results,
        bounds=BOUNDS,
        settings=dict(
            images=args.images, pixels=224, patch=16, masked=MASKED, repeats=args.repeats, threads=args.threads
        ),
        **origin(time.time() - start, 'onedl-mmpretrain'),
    )
    if 'cuda' in devices:
        data['gpu'] = torch.cuda.get_device_name()
    write_json(args.out, data)
    print(table(results))
    print(f'written to {args.out}; {data["seconds"]} s')


if __name__ == '__main__':
    main()
