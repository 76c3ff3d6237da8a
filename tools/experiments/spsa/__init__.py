"""Experiments of SPSA."""
