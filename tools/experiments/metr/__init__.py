"""Experiments of METR."""
