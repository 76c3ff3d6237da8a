"""SPSA: simple parameter-free self-attention approximation (Zhai et al., 2023), a plugin for mmpretrain and mmdet.

The layer and `SPSANet` need neither of the two. The other networks are mmpretrain's with the layer,
and there where it is installed.
"""

from importlib.util import find_spec

from .functional import saliency, spsa_agg, spsa_gate
from .insert import insert_spsa
from .layer import SPSA
from .spsanet import SPSANet

if find_spec('mmpretrain'):
    from .mobilenets import SPSAMobileNetV2, SPSAMobileViT
    from .resnet import SPSAResNet

__all__ = [
    'SPSA',
    'SPSAMobileNetV2',
    'SPSAMobileViT',
    'SPSANet',
    'SPSAResNet',
    'insert_spsa',
    'saliency',
    'spsa_agg',
    'spsa_gate',
]


def __getattr__(name: str) -> object:
    """Say what a network lacks where mmpretrain is not installed.

    Raises:
        ImportError: It is one of mmpretrain's networks.
        AttributeError: There is no such name.
    """
    if name in __all__:
        raise ImportError(f'{name} needs mmpretrain: pip install onedl-mmpretrain')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
