"""Experiments of CAE and CAE v2."""
