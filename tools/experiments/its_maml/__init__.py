"""Experiments of ITS-MAML."""
