"""Experiments of PRAE."""
