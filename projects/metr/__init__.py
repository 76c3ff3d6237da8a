"""METR: language-aware multi-dataset pretraining for DETR-like detectors (arXiv 2304.03580), a plugin for mmdet."""

from .asymmetric_loss import MultiLabelAsymmetricLoss
from .cem import CategoryExtractionModule
from .datasets import MultiVocabConcatDataset, VocabCocoDataset
from .detector import METR, DeformableMETR
from .group_assigner import GroupHungarianAssigner
from .head import METRHead
from .hooks import CheckVocabularyHook, PseudoBoxHook
from .language_classifier import LanguageClassifier
from .loading import LoadImageOrSkip
from .metric import VocabCocoMetric
from .text_bank import TextBank
from .vocabulary import Vocabulary

__all__ = [
    'METR',
    'CategoryExtractionModule',
    'CheckVocabularyHook',
    'DeformableMETR',
    'GroupHungarianAssigner',
    'LanguageClassifier',
    'LoadImageOrSkip',
    'METRHead',
    'MultiLabelAsymmetricLoss',
    'MultiVocabConcatDataset',
    'PseudoBoxHook',
    'TextBank',
    'VocabCocoDataset',
    'VocabCocoMetric',
    'Vocabulary',
]
