"""O²DETR: oriented object detection with transformer (arXiv 2106.03146), a plugin for mmrotate."""

from .cascade import O2DETRCascade
from .decoder import O2DETRDecoder
from .detector import O2DETR
from .dota_text import DOTATextDataset
from .encoder import DepthwiseSeparableMixer, DWSepEncoder, DWSepEncoderLayer
from .head import O2DETRHead
from .losses import PeriodicRBoxL1Loss
from .match_costs import GDCost, RBoxL1Cost, RotatedIoUCost

__all__ = [
    'DOTATextDataset',
    'DWSepEncoder',
    'DWSepEncoderLayer',
    'DepthwiseSeparableMixer',
    'GDCost',
    'O2DETR',
    'O2DETRCascade',
    'O2DETRDecoder',
    'O2DETRHead',
    'PeriodicRBoxL1Loss',
    'RBoxL1Cost',
    'RotatedIoUCost',
]
