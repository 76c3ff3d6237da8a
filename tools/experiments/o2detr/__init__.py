"""Experiments of O²DETR."""
