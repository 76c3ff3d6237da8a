"""Data, arms, measures and claims of tools/claims/o2detr.py."""
