"""Start values of the weights: those of the authors' code, https://github.com/Atten4Vis/CAE."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

from torch import nn

# Convolution and tokens from a normal distribution of 0.02 cut at one sigma, Xavier for each linear.
INIT_CFG = [
    dict(type='Constant', val=1, layer=['LayerNorm']),
    dict(type='TruncNormal', std=0.02, a=-0.02, b=0.02, layer=['Conv2d']),
    dict(type='Xavier', distribution='uniform', layer=['Linear']),
]


def rescale(layers: Iterable[nn.Module]) -> None:
    """Divide the output weights of both branches of layer ``i`` (from 1) by ``sqrt(2 i)``, in place, as BEiT does.

    Args:
        layers: :class:`CAEEncoderLayer` or :class:`CAERegressorLayer`.
    """
    for depth, layer in enumerate(layers, start=1):
        attention = layer.cross_attn if hasattr(layer, 'cross_attn') else layer.attn
        for output in (attention.proj, layer.ffn.layers[1]):
            output.weight.data.div_(sqrt(2 * depth))
