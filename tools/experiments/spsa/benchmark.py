"""Processor time of SPSA beside other layers, and of SPSANet beside other light networks of about as many parameters.

The layers have no projections: where a method has them, only its core is timed. A network runs in eager torch and in
ONNX Runtime, whose answers are compared first; SPSANet is to be faster than all of its class.
"""

import functools
import io
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import onnxruntime
import timm
import torch
import torch.nn.functional as F
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from experiments.frame.benchmark import Benchmark, Bound, Case, Measured, Options, ratio
from experiments.frame.measure import interleaved
from experiments.spsa.mixers import SGE, SimAM, attention
from mmplugins.spsa import SPSANet, spsa_agg, spsa_gate

CHANNELS, HEADS = 64, 4
GATE, SIMAM, ATTENTION = 'SPSA gate', 'SimAM', 'attention, fused kernel'
CLASSES = dict(
    xxs=('mobilevit_xxs', 'mobilevitv2_050', 'edgenext_xx_small'),
    xs=('mobilevit_xs', 'edgenext_x_small'),
    s=('mobilevit_s', 'edgenext_small'),
)
OTHERS = dict(xxs=('mobilenetv3_small_100',), xs=('efficientvit_m0',), s=('repvit_m0_9',))


def tokens(x: Tensor) -> Tensor:
    """View ``(B, C, H, W)`` as ``(B, h, N, d)``."""
    return x.flatten(2).unflatten(1, (HEADS, -1)).transpose(-1, -2)


def one_pass_gate(x: Tensor) -> Tensor:
    """The gate whose norms are a sum of squares minus a squared sum: no centered copy, and wrong with an offset."""
    t = x.unflatten(1, (HEADS, -1))
    total = t.sum(2, keepdim=True)
    squares = torch.addcmul((t * t).sum(2, keepdim=True), total, total, value=-HEADS / CHANNELS)
    vector = F.layer_norm(t.mean((3, 4)), t.shape[2:3])[..., None, None]
    rho = (t * vector).sum(2, keepdim=True) * squares.clamp_min(0).add(1e-6).rsqrt() * (HEADS / CHANNELS) ** 0.5
    return torch.addcmul(t, t, rho).view_as(x)


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
    GATE: lambda x: spsa_gate(x, HEADS),
    'SPSA gate, one pass, wrong with an offset': one_pass_gate,
    'SPSA agg': lambda x: spsa_agg(x, HEADS),
    SIMAM: SimAM(),
    'SGE': SGE(CHANNELS, num_heads=HEADS).requires_grad_(False),
    'cross-covariance attention (XCA)': cross_covariance,
    'Efficient attention': efficient_attention,
    ATTENTION: lambda x: attention(x, HEADS),
}


def build_layer(name: str, side: int, device: str, calls: int = 1) -> Callable[[], None]:
    """Return calls of a layer on one map of random numbers."""
    layer, x = LAYERS[name], torch.randn(1, CHANNELS, side, side, device=device)
    if isinstance(layer, nn.Module):
        layer.to(device)

    def call() -> None:
        for _ in range(calls):
            layer(x)

    return call


def case_of(tokens: int) -> str:
    """Return the name of the case of the layers."""
    return f'layer, {tokens} tokens'


def layer_cases(options: Options) -> Iterator[Case]:
    """Layers by number of tokens; attention up to 12,544."""
    repeats = 1 if options.quick else options.repeats or 15
    for side in (14, 28) if options.quick else (14, 28, 56, 112, 256):
        names = [name for name in LAYERS if name != ATTENTION or side <= 112]
        # The clock of a process is coarse, so many small calls are measured at once.
        calls = max(1, 20000 // side**2)
        given = {}
        for group in ([name for name in names if name != ATTENTION], [ATTENTION] if ATTENTION in names else []):
            arms = {name: build_layer(name, side, options.device, calls) for name in group}
            slow = group == [ATTENTION] and side > 28
            seconds = interleaved(arms, min(repeats, 3) if slow else repeats, options.device)
            given.update({name: dict(seconds=value / calls) for name, value in seconds.items()})
        arms = {name: build_layer(name, side, options.device) for name in names}
        peaks = {}
        if side == 112:
            peaks = {name: (build_layer, (name, side, options.device), (name, 14, options.device)) for name in names}
        yield Case(case_of(side**2), arms, GATE, timed=False, peaks=peaks, given=given)


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
        model = Classifier(name.removeprefix('spsanet_'))
    else:
        model = timm.create_model(name, **({'img_size': side} if name.startswith('efficientvit_m') else {}))
    model.eval()
    return reparameterize_model(model) if name.startswith('repvit') else model


@torch.no_grad()
def to_session(model: nn.Module, x: Tensor, name: str) -> Callable[[], object]:
    """Return a call of ONNX Runtime with one thread.

    Raises:
        AssertionError: Its answer differs from torch's by more than a thousandth of the largest logit.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(model, (x,), file, input_names=['x'], opset_version=17, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=['CPUExecutionProvider'])
    feed, expected = {'x': x.numpy()}, model(x).numpy()
    np.testing.assert_allclose(
        session.run(None, feed)[0], expected, rtol=0, atol=1e-3 * np.abs(expected).max(), err_msg=name
    )
    return lambda: session.run(None, feed)


def network_cases(options: Options) -> Iterator[Case]:
    """Networks by class, one image of 256 pixels; ONNX Runtime on the CPU alone."""
    side = 64 if options.quick else 256
    x = torch.randn(1, 3, side, side)
    for arch in ('xxs',) if options.quick else CLASSES:
        ours = f'spsanet_{arch}'
        models = {name: build(name, side) for name in (ours, f'{ours}_2res', *CLASSES[arch], *OTHERS[arch])}
        if options.device == 'cpu':
            arms = {name: to_session(model, x, name) for name, model in models.items()}
            yield Case(f'{ours}, ONNX Runtime', arms, ours, 15, count=False)
        image = x.to(options.device)
        arms = {name: torch.no_grad()(functools.partial(m.to(options.device), image)) for name, m in models.items()}
        yield Case(f'{ours}, eager', arms, ours, 15, compiled={ours: (models[ours], image)})


def cases(options: Options) -> Iterator[Case]:
    """Layers, then networks."""
    yield from layer_cases(options)
    yield from network_cases(options)


def layer_bounds(measured: Measured) -> list[Bound]:
    """The gate over tokens, and against attention and SimAM."""
    layers = [case for case in measured if case.startswith('layer')]
    a_token = [measured[case][GATE]['traffic'] / int(case.split()[1]) for case in layers]
    found = [Bound('gate: bytes moved a token, most over fewest', max(a_token) / min(a_token), 1.1, 'counted: linear')]
    if case_of(65536) in measured:
        a_token = [measured[case_of(tokens)][GATE]['seconds'] / tokens for tokens in (65536, 3136)]
        reason = 'the map leaves the cache, and its memory is new in each call; attention would take 20 times'
        found.append(Bound('gate: time a token, 65,536 over 3,136', a_token[0] / a_token[1], 4, reason))
    pairs = 'attention multiplies each token with each, the gate each with one mean'
    for case in [case for case in layers if case == case_of(12544)]:
        times = ratio(measured, case, ATTENTION, GATE, 'seconds')
        found.append(Bound(f'{case}: time of attention over the gate', times, 100, pairs, '>='))
    for case in layers:
        moved = ratio(measured, case, GATE, SIMAM, 'traffic')
        found.append(Bound(f'{case}: bytes moved over SimAM', moved, 1.3, 'counted'))
    return found


def network_bounds(measured: Measured) -> list[Bound]:
    """Each SPSANet against the fastest of its class."""
    reason = 'counted: no more products than the class has, to 1 %; and no softmax, no GELU'
    found = []
    for case in [case for case in measured if case.startswith('spsanet')]:
        ours = case.split(',')[0]
        best = min(
            CLASSES[ours.removeprefix('spsanet_')], key=lambda name, case=case: measured[case][name]['seconds']
        )  # fmt: skip
        value = ratio(measured, case, ours, best, 'seconds')
        found.append(Bound(f'{case}: time over {best}', value, 1.0, reason))
    return found


def bounds(measured: Measured) -> list[Bound]:
    """Of the layer and of the networks."""
    return [*layer_bounds(measured), *network_bounds(measured)]


BENCHMARK = Benchmark(cases=cases, bounds=bounds, packages=('timm', 'onnxruntime'))
