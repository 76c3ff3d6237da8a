"""SPSA: simple parameter-free self-attention approximation (Zhai et al., 2023), a plugin for mmpretrain and mmdet."""

from .functional import saliency, spsa_agg, spsa_gate
from .layer import SPSA
from .mixers import MHSA, SGE, PoolMixer, SimAM, SkipMixer
from .mobilenets import SPSAMobileNetV2, SPSAMobileViT
from .resnet import SPSAResNet
from .spsanet import SPSANet

__all__ = [
    'MHSA',
    'SGE',
    'SPSA',
    'PoolMixer',
    'SPSAMobileNetV2',
    'SPSAMobileViT',
    'SPSANet',
    'SPSAResNet',
    'SimAM',
    'SkipMixer',
    'saliency',
    'spsa_agg',
    'spsa_gate',
]
