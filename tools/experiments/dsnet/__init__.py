"""Experiments of DS-Net."""
