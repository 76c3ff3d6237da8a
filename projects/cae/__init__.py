"""CAE and CAE v2: context autoencoders (arXiv 2202.03026, 2211.09799), a plugin for mmpretrain."""

from .cae_v1 import CAEv1
from .cae_v2 import CAEv2
from .cropping import TwoViewRandomResizedCrop
from .heads import CAEv1Head, CAEv2Head
from .masking import InclusiveBlockMask, RandomPatchMask
from .regressor import CAERegressorNeck
from .targets.codebook import fit_codebook, fit_kmeans
from .targets.dalle import DALLETokenTarget
from .targets.frozen import CLIPVisionTarget, FrozenFeatureTarget
from .targets.pixels import HOGTarget, KMeansTokenTarget, PixelTarget
from .transfer.dense_vit import BackboneLayerDecayOptimWrapperConstructor, CAEDenseViT, ViTPyramid
from .transfer.finetune_vit import CAEFinetuneViT
from .transfer.probes import AttentiveProbeHead
from .visualization import ReconstructionHook
from .vit import CAEViT
from .weights.layouts import from_ours, to_ours

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
    'DALLETokenTarget',
    'FrozenFeatureTarget',
    'HOGTarget',
    'InclusiveBlockMask',
    'KMeansTokenTarget',
    'PixelTarget',
    'RandomPatchMask',
    'ReconstructionHook',
    'TwoViewRandomResizedCrop',
    'ViTPyramid',
    'fit_codebook',
    'fit_kmeans',
    'from_ours',
    'to_ours',
]
