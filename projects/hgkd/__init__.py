"""H-GKD: distil a masked-image-modelling ViT into a sparse CNN (arXiv 2309.09571), a plugin for mmpretrain."""

from .decoder import HGKDUNetDecoder
from .distilled import distilled_model
from .head import FeaturePredictHead
from .hgkd import HGKD
from .hook import GenerativeDistillHook
from .masks import ActiveMask, draw_cells
from .neighbors import NearestNeighborHook
from .seeding import EpochSeedHook
from .sparse.encoder import HGKDSparseBackbone
from .sparse.resnet import HGKDSparseResNet
from .teachers.provider import TeacherProvider

__all__ = [
    'HGKD',
    'ActiveMask',
    'EpochSeedHook',
    'FeaturePredictHead',
    'GenerativeDistillHook',
    'HGKDSparseBackbone',
    'HGKDSparseResNet',
    'HGKDUNetDecoder',
    'NearestNeighborHook',
    'TeacherProvider',
    'distilled_model',
    'draw_cells',
]
