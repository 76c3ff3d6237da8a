"""CAE and CAE v2: context autoencoders (arXiv 2202.03026, 2211.09799), a plugin for mmpretrain."""

from .cae_v1 import CAEv1
from .cae_v2 import CAEv2
from .codebook import fit_codebook, fit_kmeans
from .dense_vit import CAEDenseViT, ViTPyramid
from .ellipses import EllipseMasks, LoadEllipseSegMap
from .finetune_vit import CAEFinetuneViT
from .frozen_targets import CLIPVisionTarget, FrozenFeatureTarget
from .heads import CAEv1Head, CAEv2Head
from .layer_decay import BackboneLayerDecayOptimWrapperConstructor
from .masking import InclusiveBlockMask, RandomPatchMask
from .probes import AttentiveProbeHead
from .regressor import CAERegressorNeck
from .targets import HOGTarget, KMeansTokenTarget, PixelTarget
from .visualization import ReconstructionHook
from .vit import CAEViT
from .weights import from_ours, to_ours

__all__ = [
    'AttentiveProbeHead',
    'BackboneLayerDecayOptimWrapperConstructor',
    'CAEDenseViT',
    'CAEFinetuneViT',
    'CAERegressorNeck',
    'CAEViT',
    'CAEv1',
    'CAEv1Head',
    'CAEv2',
    'CAEv2Head',
    'CLIPVisionTarget',
    'EllipseMasks',
    'FrozenFeatureTarget',
    'HOGTarget',
    'InclusiveBlockMask',
    'KMeansTokenTarget',
    'LoadEllipseSegMap',
    'PixelTarget',
    'RandomPatchMask',
    'ReconstructionHook',
    'ViTPyramid',
    'fit_codebook',
    'fit_kmeans',
    'from_ours',
    'to_ours',
]
