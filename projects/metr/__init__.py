"""METR: language-aware multi-dataset pretraining for DETR-like detectors (arXiv 2304.03580), a plugin for mmdet."""

from .asymmetric_loss import MultiLabelAsymmetricLoss
from .cem import CategoryExtractionModule
from .data.coco_dataset import VocabCocoDataset
from .data.datasets import MultiVocabConcatDataset
from .data.loading import LoadImageOrSkip
from .data.metric import VocabCocoMetric
from .data.openimages_metric import VocabOpenImagesMetric
from .data.sampler import InfiniteRatioSampler
from .detector import METR, DeformableMETR
from .group_assigner import GroupHungarianAssigner
from .head import METRHead
from .hooks import CheckVocabularyHook, PseudoBoxHook
from .text.bank import TextBank
from .text.classifier import LanguageClassifier
from .text.vocabulary import Vocabulary

__all__ = [
    'METR',
    'CategoryExtractionModule',
    'CheckVocabularyHook',
    'DeformableMETR',
    'GroupHungarianAssigner',
    'InfiniteRatioSampler',
    'LanguageClassifier',
    'LoadImageOrSkip',
    'METRHead',
    'MultiLabelAsymmetricLoss',
    'MultiVocabConcatDataset',
    'PseudoBoxHook',
    'TextBank',
    'VocabCocoDataset',
    'VocabCocoMetric',
    'VocabOpenImagesMetric',
    'Vocabulary',
]
