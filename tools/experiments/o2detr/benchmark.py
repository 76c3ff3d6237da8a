"""Time, operations and memory of O²DETR's encoder against attention, and of the whole model against Deformable DETR.

Encoder: the tokens of one square image, 256 channels, forward and backward; ``mixing`` is what stands in the place of
attention, with its residual connection, ``layer`` adds norms and FFN. Dense attention is measured where its matrix is
of moderate size. On CUDA the sampling of deformable attention is a kernel that the counter of operations does not see.

Whole model: ResNet-50, 300 queries, 6 + 6 layers, forward only, O²DETR against the rotated Deformable DETR of the same
class.
"""

from collections.abc import Iterator

import torch
from mmengine.registry import DefaultScope
from mmrotate.registry import MODELS
from mmrotate.utils import register_all_modules
from torch import Tensor, nn

from experiments.frame.benchmark import Benchmark, Bound, Case, Measured, Options, ratio
from experiments.o2detr.layers import EncoderCase

OURS, DENSE = ('ours', 'ours, exchange'), ('dense, explicit', 'dense, fused')
DIMS = 256


def encoder_cases(options: Options) -> Iterator[Case]:
    """One layer at several sizes."""
    for size in (128, 192) if options.quick else (256, 512, 1024):
        names = (*OURS, 'deformable', *(DENSE if size <= 512 else ()))
        encoder = EncoderCase(size, 32 if options.quick else DIMS, names, options.device)
        for what in ('mixing', 'layer'):
            compiled = {}
            if what == 'layer' and size <= 256:
                compiled = dict(ours=(encoder.layers['ours'], encoder.query, encoder.pos, None, encoder.levels))
            yield Case(f'{what}, {size}²', encoder.arms(what), 'deformable', 5 if size <= 256 else 3, compiled=compiled)


def build_model(encoder: str, dims: int) -> nn.Module:
    """Return a full-size detector with an encoder of a kind, ``'dwsep'`` or ``'deformable'``."""
    ffn = dict(embed_dims=dims, feedforward_channels=4 * dims, ffn_drop=0.1)
    attention = dict(embed_dims=dims, num_heads=8, dropout=0.1, batch_first=True)
    layer = dict(mixer_cfg=dict(embed_dims=dims)) if encoder == 'dwsep' else dict(self_attn_cfg=attention.copy())
    neck = dict(
        type='mmdet.ChannelMapper', in_channels=[512, 1024, 2048], kernel_size=1, out_channels=dims, act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=32), num_outs=4,
    )  # fmt: skip
    decoder = dict(self_attn_cfg=attention.copy(), cross_attn_cfg=attention.copy(), ffn_cfg=ffn)
    model = dict(
        type='O2DETR',
        num_queries=300,
        backbone=dict(type='mmdet.ResNet', depth=50, out_indices=(1, 2, 3), style='pytorch'),
        neck=neck,
        encoder=dict(type=encoder, num_layers=6, layer_cfg=dict(**layer, ffn_cfg=ffn)),
        decoder=dict(num_layers=6, return_intermediate=True, post_norm_cfg=None, layer_cfg=decoder),
        positional_encoding=dict(num_feats=dims // 2, normalize=True, offset=-0.5),
        bbox_head=dict(type='O2DETRHead', num_classes=15, embed_dims=dims),
        test_cfg=dict(max_per_img=300),
    )
    return MODELS.build(model).eval()


def model_case(options: Options) -> Case:
    """Both detectors, forward only."""
    size = 128 if options.quick else 512
    image = torch.rand(1, 3, size, size, device=options.device)
    models = {
        name: build_model(kind, 64 if options.quick else DIMS).to(options.device)
        for name, kind in (('ours', 'dwsep'), ('deformable', 'deformable'))
    }

    @torch.no_grad()
    def forward(model: nn.Module) -> Tensor:
        return model(image, mode='tensor')

    arms = {name: lambda model=model: forward(model) for name, model in models.items()}
    return Case(f'whole model, {size}², forward', arms, 'deformable')


def cases(options: Options) -> Iterator[Case]:
    """All cases."""
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmrotate'):
        yield from encoder_cases(options)
        yield model_case(options)


def bounds(measured: Measured) -> list[Bound]:
    """The worst over all sizes, with and without the exchange."""

    def worst(what: str, key: str) -> float:
        found = [case for case in measured if case.startswith(what)]
        return max(ratio(measured, case, arm, 'deformable', key) for case in found for arm in OURS)

    layers = [case for case in measured if case.startswith('layer')]
    a_pixel = [measured[case]['ours']['flops'] / int(case.split()[1].split('²')[0]) ** 2 for case in layers]
    sampled = 'a token reads its 9 neighbors in order; attention samples 16 places a head, bilinearly'
    whole = max(ratio(measured, case, 'ours', 'deformable', 'seconds') for case in measured if case.startswith('whole'))
    steepest = max(a_pixel) / a_pixel[0]
    return [
        Bound('mixing, time over deformable', worst('mixing', 'seconds'), 0.12, sampled),
        Bound('layer, time over deformable', worst('layer', 'seconds'), 0.4, f'the FFN is the same; {sampled}'),
        Bound('layer, bytes kept over deformable', worst('layer', 'kept'), 0.45, 'counted: no weights, no samples'),
        Bound('layer, operations a pixel over those of the smallest image', steepest, 1.0, 'counted: linear'),
        Bound('whole model, time over deformable', whole, 1.0, sampled),
    ]


BENCHMARK = Benchmark(cases=cases, bounds=bounds)
