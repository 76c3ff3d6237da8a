"""DS-Net: dual-stream network for visual recognition (Mao et al., NeurIPS 2021), for mmpretrain, mmdet and mmseg."""

from .block import DSBlock
from .dsfpn import DSFPN
from .dsnet import DSNet
from .streams import GlobalStream, InterScaleAlignment, LocalStream, attend

__all__ = ['DSFPN', 'DSBlock', 'DSNet', 'GlobalStream', 'InterScaleAlignment', 'LocalStream', 'attend']
