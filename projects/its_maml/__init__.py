"""ITS-MAML: robust few-shot meta-learning with more training shots (Duan et al., 2022), on mmengine and mmpretrain."""

from .attacks import LinfAttack
from .backbones import Conv4, ResNet12, use_batch_statistics
from .data.datasets import DigitsDataset, LeafFolderDataset, PackedDataset
from .data.episodes import EpisodeSampler, EpisodicDataset
from .data.folders import FewShotFolder
from .external_attacks import FoolboxAttack, TorchAttack
from .hooks import CheckEpisodesHook, IntrinsicDimensionHook
from .intrinsic_dim import intrinsic_dimension
from .learner import Learner, adapt
from .metric import FewShotRobustMetric
from .robust_maml import RobustMAML
from .variants import CosineClsHead, RobustANIL, RobustBaselinePlusPlus, RobustProtoNet

__all__ = [
    'CheckEpisodesHook',
    'Conv4',
    'CosineClsHead',
    'DigitsDataset',
    'EpisodeSampler',
    'EpisodicDataset',
    'FewShotFolder',
    'FewShotRobustMetric',
    'FoolboxAttack',
    'IntrinsicDimensionHook',
    'LeafFolderDataset',
    'Learner',
    'LinfAttack',
    'PackedDataset',
    'ResNet12',
    'RobustANIL',
    'RobustBaselinePlusPlus',
    'RobustMAML',
    'RobustProtoNet',
    'TorchAttack',
    'adapt',
    'intrinsic_dimension',
    'use_batch_statistics',
]
