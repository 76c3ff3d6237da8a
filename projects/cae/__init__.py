"""CAE and CAE v2: context autoencoders (arXiv 2202.03026, 2211.09799), a plugin for mmpretrain."""

from .vit import CAEViT

__all__ = ['CAEViT']
