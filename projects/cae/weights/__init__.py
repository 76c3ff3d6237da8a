"""Checkpoints of CAE in our names, in the authors' and in timm's."""
