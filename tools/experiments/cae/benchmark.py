"""Speed and memory of CAE's pretraining step against mmpretrain's own CAE, and against encoding all patches.

A step is forward and backward of images of 224 pixels, patch 16, with 75 patches masked, which is the only number that
mmpretrain's CAE can be built for. Targets are computed beforehand for all arms, and there is no DropPath.

* ``ours``: CAE; the same weights as ``host``, and outputs, losses and gradients are compared first.
* ``host``: mmpretrain's CAE: a second encoder, to which all weights are copied each step, and attention in parts.
* ``v2``: our CAE v2, supervised on CLS, visible and masked tokens; the regressor as in ``ours``, no decoder.
* ``beit``: mmpretrain's BEiT: all patches go through the encoder, the masked ones as mask tokens; 8192 tokens.
* ``ours, oneDNN`` and ``host, oneDNN``: with the products that ``MMPLUGINS_ONEDNN=1`` tries, timed alone, on a CPU.

Shapes: ``B`` images, ``N`` patches.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from mmpretrain.models import CAE, CAEHead
from mmpretrain.models.heads import BEiTV1Head
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from mmpretrain.utils import register_all_modules
from torch import Tensor, nn

import mmplugins.cae  # noqa: F401
from experiments.frame.benchmark import Benchmark, Bound, Case, Measured, Options, ratio
from mmplugins.utils.cpu_products import onednn_products

WIDTHS = dict(tiny=48, small=384, base=768)
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


def losses(model: nn.Module, batch: tuple) -> dict[str, Tensor]:
    """The losses that are added up."""
    return {name: value for name, value in model.loss(batch[0], batch[1]).items() if 'loss' in name}


def step(model: nn.Module, batch: tuple, products: Callable[[], AbstractContextManager] = nullcontext) -> None:
    """Forward and backward; the forward is computed again inside the backward, so both need the same products."""
    with products():
        sum(losses(model, batch).values()).backward()


def compare(ours: nn.Module, host: CAE, batch: tuple) -> dict[str, float]:
    """Return the largest differences of latents and logits, and the relative ones of loss and gradients."""
    mask = torch.stack([sample.mask for sample in batch[1]]).flatten(1)
    table = ours.backbone.pos_embed[:, 1:].expand(len(mask), -1, -1)
    with torch.no_grad():
        latents, pred = ours.reconstruct(batch[0][0], mask)
        tokens = host.backbone(batch[0][0], mask)
        places = (table[chosen].unflatten(0, (len(mask), -1)) for chosen in (mask, ~mask))
        host_pred, host_latents = host.neck(tokens[:, 1:], *places)
    one, other = (_backward(model, batch) for model in (ours, host))
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


def _backward(model: nn.Module, batch: tuple) -> float:
    loss = sum(losses(model, batch).values())
    loss.backward()
    return float(loss.detach())


def check(options: Options) -> None:
    """Compare ours with the host on the same weights, in float64, where rounding is the same on each device.

    Raises:
        AssertionError: They differ by more than 1e-5.
    """
    register_all_modules()
    views, *rest = make_batch(2, options.device)
    batch = ([view.double() for view in views], *rest)
    size = 'tiny' if options.quick else 'small'
    ours, host = (build(arm, size, *batch[2:]).double() for arm in ('ours', 'host'))
    spread_weights(ours)
    copy_weights(ours, host)
    differences = compare(ours, host, batch)
    if max(differences.values()) > 1e-5:
        raise AssertionError(f'ours and the host differ: {differences}')


def build_step(arm: str, size: str, images: int, device: str) -> Callable[[], None]:
    """Return a step of an arm, for `measure.peak_bytes`."""
    register_all_modules()
    batch = make_batch(images, device)
    model = build(arm, size, *batch[2:])
    return lambda: step(model, batch)


def cases(options: Options) -> Iterator[Case]:
    """A pretraining step at two sizes of the model."""
    images = 2 if options.quick else 8
    batch = make_batch(images, options.device)
    for size in ('tiny',) if options.quick else ('small', 'base'):
        models = {arm: build(arm, size, *batch[2:]) for arm in ARMS}
        peaks = {
            arm: (build_step, (arm, size, images, options.device), (arm, 'tiny', 1, options.device)) for arm in ARMS
        }
        arms = {arm: lambda model=model: losses(model, batch) for arm, model in models.items()}
        name = f'ViT-{size[0].upper()}, {images} images'
        yield Case(name, arms, 'host', repeats=3, peaks=peaks)
        if options.device == 'cpu':
            ways = {f'{arm}, oneDNN': (models[arm], batch, onednn_products) for arm in ('ours', 'host')}
            ways['host'] = (models['host'], batch)
            steps = {arm: lambda way=way: step(*way) for arm, way in ways.items()}
            yield Case(f'{name}, products by oneDNN', steps, 'host', repeats=3, count=False)


def bounds(measured: Measured) -> list[Bound]:
    """Ours over mmpretrain's CAE."""
    found = []
    for case in (case for case, arms in measured.items() if 'ours' in arms):
        memory, kept = (ratio(measured, case, 'ours', 'host', key) for key in ('peak', 'kept'))
        found += [
            Bound(f'{case}: peak memory over mmpretrain', memory, 0.8, 'one encoder; below, what is kept'),
            Bound(f'{case}: bytes kept over mmpretrain', kept, 0.8, 'counted: no attention matrices, hidden maps once'),
        ]
    return found


BENCHMARK = Benchmark(cases=cases, bounds=bounds, check=check)
