"""Time and memory of DS-Net beside a literal version that stores its attention matrices, and beside its peers.

``python tools/benchmarks/dsnet.py`` writes ``projects/dsnet/results/benchmark.json``. Times are processor time of one
thread, which other work on the machine changes least; arms take turns. Attention dropout and drop path are 0 in all.
Memory is the peak of a process of its own over what it had before. With a GPU ``--device cuda`` measures there.
"""

import argparse
import ctypes
import functools
import multiprocessing
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from mmpretrain.models import backbones
from mmpretrain.models.heads import ConformerHead
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmplugins.dsnet import DSBlock, DSNet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, interleaved, markdown_table, origin, resident, write_json

BOUNDS = dict(time=0.95, memory=0.35)
ARCHS = dict(T='tiny', S='small')
NAMES = dict(block='a block of the first stage', network='DS-Net-T')
PEERS = {
    'Conformer-T': 'mmpretrain', 'Conformer-S': 'mmpretrain', 'pvt_v2_b1': 'timm', 'pvt_v2_b2': 'timm',
    'swin_tiny_patch4_window7_224': 'timm', 'convnext_tiny': 'timm',
}  # fmt: skip


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of ``(B, h, N, d)`` with its matrix; returns ``(B, N, h d)``."""
    matrix = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return (matrix @ v).transpose(1, 2).flatten(2)


def heads(tokens: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, values ``(B, h, N, d)`` of ``(B, N, 3 c)``."""
    return tokens.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def join_projections(block: DSBlock) -> None:
    """Give a block one projection before the split and one behind the junction, of both streams, for those of each."""
    channels = block.norm1.num_features
    block.proj_in, block.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(2))
    with torch.no_grad():
        for name in ('weight', 'bias'):
            parts = [getattr(conv, name) for conv in (block.global_in, block.local_in)]
            getattr(block.proj_in, name).copy_(torch.cat(parts))
        block.proj_out.weight.copy_(torch.cat((block.local_out.weight, block.global_out.weight), dim=1))
        block.proj_out.bias.copy_(block.local_out.bias)
    del block.local_in, block.global_in, block.local_out, block.global_out


def literal_block(block: DSBlock, x: Tensor) -> Tensor:
    """A block step by step as the formulas and the public code say it, with the weights of ours."""
    x = x + block.pos_conv(x)
    residual, size = x, x.shape[2:]
    small = [max(side // block.global_ratio, 1) for side in size]
    g, local = block.proj_in(block.norm1(x)).split((block.global_channels, block.local_channels), dim=1)
    local = local + block.local.dwconv(block.local.norm(local))
    g = F.interpolate(g, size=small, mode='bilinear').flatten(2).transpose(1, 2)
    num_heads, align = block.glob.num_heads, block.align
    g = g + explicit_attention(*heads(block.glob.qkv(block.glob.norm(g)), num_heads))
    tokens = align.local_qkv(align.local_norm(local)).flatten(2).transpose(1, 2)
    local_q, local_k, local_v = heads(tokens, num_heads)
    global_q, global_k, global_v = heads(align.global_qkv(align.global_norm(g)), num_heads)
    to_local = align.local_proj(explicit_attention(local_q, global_k, global_v))
    to_global = align.global_proj(explicit_attention(global_q, local_k, local_v))
    local = local + to_local.transpose(1, 2).unflatten(2, size)
    g = F.interpolate((g + to_global).transpose(1, 2).unflatten(2, small), size=size, mode='bilinear')
    x = residual + block.proj_out(torch.cat((local, g), dim=1))
    return x + block.ffn.fc2(F.gelu(block.ffn.fc1(block.norm2(x))))


def literal(module: nn.Module) -> nn.Module:
    """Copy of a network, or of a block, whose blocks are literal and store their attention matrices."""
    module = deepcopy(module)
    for block in module.modules():
        if isinstance(block, DSBlock):
            join_projections(block)
            block.forward = functools.partial(literal_block, block)
    return module


class Classifier(nn.Module):
    """DS-Net with 1000 classes: logits ``(B, 1000)`` of images ``(B, 3, H, W)``."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.backbone = DSNet(arch, attn_drop_rate=0.0, drop_path_rate=0.0)
        self.head = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Average the last map and classify it."""
        return self.head(self.backbone(x)[-1].mean((2, 3)))


class Conformer(nn.Module):
    """mmpretrain's Conformer with its head of 1000 classes: the sum of both logits ``(B, 1000)``."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.backbone = backbones.Conformer(arch)
        widths = [256 * self.backbone.channel_ratio, self.backbone.embed_dims]
        self.head = ConformerHead(num_classes=1000, in_channels=widths)

    def forward(self, x: Tensor) -> Tensor:
        """Classify ``(B, 3, H, W)``."""
        return sum(self.head(self.backbone(x)))


def build(name: str, device: str) -> nn.Module:
    """Return a network with 1000 classes."""
    if name.startswith('DS-Net-'):
        model = Classifier(ARCHS[name[7]])
        if name.endswith('literal'):
            model = literal(model)
    elif PEERS[name] == 'mmpretrain':
        model = Conformer(ARCHS[name[-1]])
    else:
        model = timm.create_model(name)
    return model.to(device)


def call_of(model: nn.Module, x: Tensor, training: bool) -> Callable[[], None]:
    """A forward pass in eval mode without gradients, or a forward and backward pass in training mode."""

    def forward() -> None:
        with torch.no_grad():
            model.eval()(x)

    def both() -> None:
        model.train()(x).square().mean().backward()
        model.zero_grad(set_to_none=True)

    return both if training else forward


def check(x: Tensor, device: str) -> float:
    """Largest difference of ours from the literal version over the largest logit, T, in eval mode."""
    torch.manual_seed(0)
    model = Classifier('tiny').to(device).eval()
    with torch.no_grad():
        a, b = model(x), literal(model)(x)
    return ((a - b).abs().max() / b.abs().max()).item()


def measure(plan: list[tuple[int, bool, list[str], int]], side: int, device: str) -> dict[str, dict[str, float]]:
    """Milliseconds an image, by network and by ``batch`` and ``pass``."""
    names = list(dict.fromkeys(name for _, _, names, _ in plan for name in names))
    torch.manual_seed(0)
    models = {name: build(name, device) for name in names}
    found: dict[str, dict] = {}
    for name, model in models.items():
        # On no device: torch does not count what its fused kernels multiply.
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            deepcopy(model).to('meta').eval()(torch.empty(1, 3, side, side, device='meta'))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found[name] = dict(parameters=parameters, gmacs=counter.get_total_flops() / 2e9)
    for batch, training, chosen, repeats in plan:
        x = torch.randn(batch, 3, side, side, device=device)
        calls = {name: call_of(models[name], x, training) for name in chosen}
        for call in calls.values():
            call()
        for name, seconds in interleaved(calls, repeats, device).items():
            found[name][f'{"forward+backward" if training else "forward"}, batch {batch}'] = seconds / batch * 1000
    return found


def peak(kind: str, what: str, size: tuple[int, int], device: str) -> dict[str, float]:
    """MiB of a forward and backward pass over what was there before, batch 1; to be run in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if sys.platform == 'linux':
        # M_MMAP_THRESHOLD: give what is freed back at once, or the peak is that of glibc's heap, not of the tensors.
        ctypes.CDLL(None).mallopt(-3, 2**16)
    if what == 'block':
        module, x = DSBlock(64, num_heads=1, global_ratio=8), torch.randn(1, 64, size[0] // 4, size[1] // 4)
        x = x.contiguous(memory_format=torch.channels_last)  # as inside the network
    else:
        module, x = Classifier('tiny'), torch.randn(1, 3, *size)
    module, x = module.to(device).train(), x.to(device)
    if kind == 'literal':
        module = literal(module)
    # Libraries take memory of their own at their first call.
    module(x[..., :64, :64]).mean().backward()
    if device == 'cpu':
        before = resident('VmRSS')
    else:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    start = time.process_time()
    module(x).mean().backward()
    seconds = time.process_time() - start
    after = resident('VmHWM') if device == 'cpu' else torch.cuda.max_memory_allocated()
    return dict(mib=(after - before) / 2**20, seconds=seconds)


def peaks(size: tuple[int, int], device: str) -> dict[str, dict[str, dict[str, float]]]:
    """Peaks of the first stage's block and of DS-Net-T, ours and literal, each in a new process."""
    context = multiprocessing.get_context('spawn')
    found: dict[str, dict] = {}
    for what in ('block', 'network'):
        found[what] = {}
        for kind in ('ours', 'literal'):
            with context.Pool(1) as pool:
                found[what][kind] = pool.apply(peak, (kind, what, size, device))
    return found


def judge(networks: dict, memory: dict) -> dict[str, dict]:
    """Compare with the bounds."""
    result = {}
    for letter in ARCHS:
        ours, other = networks.get(f'DS-Net-{letter}'), networks.get(f'DS-Net-{letter} literal')
        for way in [key for key in other or () if 'batch' in key]:
            ratio = ours[way] / other[way]
            name = f'DS-Net-{letter}, time over literal, {way}'
            result[name] = dict(value=ratio, bound=f'≤ {BOUNDS["time"]}', holds=ratio <= BOUNDS['time'])
    for what, kinds in memory.items():
        ratio = kinds['ours']['mib'] / kinds['literal']['mib']
        result[f'{NAMES[what]}, peak memory over literal, 800 x 1344'] = dict(
            value=ratio, bound=f'≤ {BOUNDS["memory"]}', holds=ratio <= BOUNDS['memory']
        )
    return result


def table(networks: dict, memory: dict, bounds: dict, difference: float, device: str) -> str:
    """Return the three tables."""
    ways = list(dict.fromkeys(key for network in networks.values() for key in network if 'batch' in key))
    rows = [
        [name, f'{n["parameters"] / 1e6:.1f}', f'{n["gmacs"]:.2f}', *(f'{n[w]:.1f}' if w in n else '–' for w in ways)]
        for name, n in networks.items()
    ]
    unit = 'processor time of one thread' if device == 'cpu' else 'GPU time'
    parts = [
        f'224 pixels, milliseconds an image, {unit} (–: not run; logits of ours differ from the literal version by '
        f'{difference:.0e} of the largest):',
        markdown_table(('network', 'parameters, M', 'GMACs', *ways), rows),
    ]
    rows = [
        [
            'a block of the first stage' if what == 'block' else 'DS-Net-T',
            kind,
            f'{m["mib"]:,.0f}',
            f'{m["seconds"]:.1f}',
        ]
        for what, kinds in memory.items()
        for kind, m in kinds.items()
    ]
    parts.append('800 x 1344 pixels, forward and backward, batch 1:')
    parts.append(markdown_table(('what', 'version', 'peak, MiB', 'seconds'), rows))
    answers = {True: 'holds', False: '**does not hold**'}
    rows = [[name, f'{b["value"]:.2f}', b['bound'], answers[b['holds']]] for name, b in bounds.items()]
    parts.append(markdown_table(('what', 'measured', 'bound', ''), rows))
    return '\n\n'.join(parts)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--side', type=int, default=224, help='of the images (default 224)')
    parser.add_argument(
        '--repeats', type=int, default=7, help='of DS-Net (default 7), three times as many at batch 1; peers: 3'
    )
    parser.add_argument('--batch', type=int, default=16, help='the larger batch (default 16); 1 leaves it out')
    parser.add_argument('--all', action='store_true', help='the peers at the larger batch, too; slow on a CPU')
    parser.add_argument('--networks', nargs='+', help='default: DS-Net-T and S in both versions, six peers')
    parser.add_argument('--memory-size', type=int, nargs=2, default=(800, 1344), metavar=('H', 'W'))
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/dsnet/results/benchmark.json')
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.time()
    ours = [f'DS-Net-{letter}{suffix}' for letter in ARCHS for suffix in ('', ' literal')]
    names = args.networks or [*ours, *PEERS]
    pairs = [name for name in names if name.startswith('DS-Net-')]
    peers = [name for name in names if name in PEERS]
    plan = []
    for training in (False, True):
        plan += [(1, training, pairs, 3 * args.repeats), (1, training, peers, min(args.repeats, 3))]
    if args.batch > 1:
        few = names if args.all else pairs
        plan += [(args.batch, training, few, args.repeats) for training in (False, True)]
    networks = measure(plan, args.side, args.device)
    memory = peaks(tuple(args.memory_size), args.device)
    difference = check(torch.randn(1, 3, args.side, args.side, device=args.device), args.device)
    bounds = judge(networks, memory)
    results = dict(networks=networks, memory=memory, bounds=bounds, difference=difference, device=args.device)
    text = table(**results)
    seconds = time.time() - start
    write_json(args.out, dict(table=text, **results, **origin(seconds, 'timm', 'onedl-mmpretrain')))
    print(text)
    print(f'\nwritten to {args.out}; {seconds:.0f} s')


if __name__ == '__main__':
    main()
