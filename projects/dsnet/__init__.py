"""DS-Net: dual-stream network for visual recognition (Mao et al., NeurIPS 2021), for mmpretrain, mmdet and mmseg.

`DSFPN` is mmdet's pyramid, and there where mmdet is installed; the rest needs mmpretrain alone.
"""

from importlib.util import find_spec

from .block import DSBlock
from .dsnet import DSNet
from .streams import GlobalStream, InterScaleAlignment, LocalStream, attend

if find_spec('mmdet'):
    from .dsfpn import DSFPN

__all__ = ['DSFPN', 'DSBlock', 'DSNet', 'GlobalStream', 'InterScaleAlignment', 'LocalStream', 'attend']


def __getattr__(name: str) -> object:
    """Say what the pyramid lacks where mmdet is not installed.

    Raises:
        ImportError: It is `DSFPN`.
        AttributeError: There is no such name.
    """
    if name in __all__:
        raise ImportError(f'{name} needs mmdet: pip install onedl-mmdetection')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
