"""Time and memory of DS-Net beside a literal version that stores its attention matrices, and beside its peers.

``literal`` is each block as the formulas and the public code say it, with the weights of ours; logits are compared
first. Attention dropout and drop path are 0 in all. Networks have 1000 classes and see images of 224 pixels; the peers
are of about as many parameters and run with one image only.
"""

import functools
from collections.abc import Callable, Iterator
from copy import deepcopy

import timm
import torch
import torch.nn.functional as F
from mmpretrain.models import backbones
from mmpretrain.models.heads import ConformerHead
from torch import Tensor, nn

from experiments.frame.benchmark import Benchmark, Bound, Case, Measured, Options, ratio
from mmplugins.dsnet import DSBlock, DSNet

OURS, LITERAL = 'ours', 'literal'
ARCHS = {'DS-Net-T': 'tiny', 'DS-Net-S': 'small'}
PEERS = {
    'DS-Net-T': ('Conformer-T', 'pvt_v2_b1'),
    'DS-Net-S': ('Conformer-S', 'pvt_v2_b2', 'swin_tiny_patch4_window7_224', 'convnext_tiny'),
}
BLOCK = 'a block of the first stage'


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of ``(B, h, N, d)`` with its matrix; returns ``(B, N, h d)``."""
    matrix = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return (matrix @ v).transpose(1, 2).flatten(2)


def heads(tokens: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, values ``(B, h, N, d)`` of ``(B, N, 3 c)``."""
    return tokens.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def literal_block(block: DSBlock, x: Tensor) -> Tensor:
    """A block step by step: the global stream is projected at full size, attention has its matrices."""
    x = x + block.pos_conv(x)
    size = x.shape[2:]
    small = [max(side // block.global_ratio, 1) for side in size]
    normed = block.norm1(x)
    local, g = block.local_in(normed), block.global_in(normed)
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
    x = x + block.local_out(local) + block.global_out(g)
    return x + block.ffn.fc2(F.gelu(block.ffn.fc1(block.norm2(x))))


def literal(module: nn.Module) -> nn.Module:
    """Copy of a network, or of a block, whose blocks are literal and store their attention matrices."""
    module = deepcopy(module)
    for block in module.modules():
        if isinstance(block, DSBlock):
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


def build_peer(name: str) -> nn.Module:
    """Return a network of mmpretrain or timm."""
    return Conformer(ARCHS[f'DS-Net-{name[-1]}']) if name.startswith('Conformer') else timm.create_model(name)


def call_of(model: nn.Module, x: Tensor, training: bool) -> Callable[[], Tensor]:
    """The logits, in training mode with fresh gradients, or in eval mode without any."""

    def call() -> Tensor:
        model.zero_grad()
        with torch.set_grad_enabled(training):
            return model.train(training)(x)

    return call


def build_call(kind: str, what: str, size: tuple[int, int], device: str) -> Callable[[], Tensor]:
    """A forward pass in training mode of one image, of DS-Net-T or of a block of its first stage."""
    torch.manual_seed(0)
    if what == BLOCK:
        module, x = DSBlock(64, num_heads=1, global_ratio=8), torch.randn(1, 64, size[0] // 4, size[1] // 4)
        x = x.contiguous(memory_format=torch.channels_last)  # as inside the network
    else:
        module, x = Classifier(ARCHS[what]), torch.randn(1, 3, *size)
    module = literal(module) if kind == LITERAL else module
    return call_of(module.to(device), x.to(device), training=True)


def build_step(*args) -> Callable[[], None]:
    """`build_call` and backward."""
    call = build_call(*args)
    return lambda: call().mean().backward()


def network_cases(name: str, options: Options) -> Iterator[Case]:
    """A network against its literal version and its peers."""
    torch.manual_seed(0)
    ours = Classifier(ARCHS[name])
    peers = {peer: build_peer(peer) for peer in PEERS[name][: 1 if options.quick else None]}
    models = {key: model.to(options.device) for key, model in {OURS: ours, LITERAL: literal(ours), **peers}.items()}
    for batch in (1,) if options.quick else (1, 16):
        x = torch.randn(batch, 3, *(2 * [64 if options.quick else 224]), device=options.device)
        chosen = models if batch == 1 else {key: models[key] for key in (OURS, LITERAL)}
        for training in (False, True):
            arms = {key: call_of(model, x, training) for key, model in chosen.items()}
            # One image alone is soon done, and its time the more uneven.
            repeats = 11 if batch == 1 else 7
            compiled = {OURS: (ours.eval(), x)} if batch == 1 and not training else {}
            way = 'forward+backward' if training else 'forward'
            yield Case(f'{name}, {way}, batch {batch}', arms, LITERAL, repeats, compiled=compiled)


def cases(options: Options) -> Iterator[Case]:
    """Networks at 224 pixels, and the memory of training a detector."""
    for name in ('DS-Net-T',) if options.quick else ARCHS:
        yield from network_cases(name, options)
    size, warm = ((128, 192), (64, 64)) if options.quick else ((800, 1344), (64, 64))
    for what in (BLOCK, 'DS-Net-T'):
        arms = {kind: build_call(kind, what, size, options.device) for kind in (OURS, LITERAL)}
        peaks = {
            kind: (build_step, (kind, what, size, options.device), (kind, what, warm, options.device)) for kind in arms
        }
        yield Case(f'{what}, {size[0]} x {size[1]}', arms, LITERAL, timed=False, peaks=peaks)


def check(options: Options) -> None:
    """Compare the logits of ours with those of the literal version, in eval mode.

    Raises:
        AssertionError: They differ by more than 1e-4 of the largest.
    """
    torch.manual_seed(0)
    model = Classifier('tiny').to(options.device).eval()
    x = torch.randn(2, 3, 96, 96, device=options.device)
    with torch.no_grad():
        found, expected = model(x), literal(model)(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def bounds(measured: Measured) -> list[Bound]:
    """Ours over the literal version."""
    fewer = 'counted: fewer products, the global stream is projected where it is small'
    kept = 'no attention matrices, and the GELU is computed again'
    found = []
    for case in measured:
        over = functools.partial(ratio, measured, case, OURS, LITERAL)
        if 'batch' in case:
            found.append(Bound(f'{case}: time over literal', over('seconds'), 0.95, fewer))
        else:
            found.append(Bound(f'{case}: peak memory over literal', over('peak'), 0.35, kept))
            found.append(Bound(f'{case}: bytes kept for backward over literal', over('kept'), 0.35, f'counted: {kept}'))
    return found


BENCHMARK = Benchmark(cases=cases, bounds=bounds, check=check, packages=('timm',))
