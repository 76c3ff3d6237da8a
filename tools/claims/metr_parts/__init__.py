"""Data and model of the small METR experiment, used by ``tools/claims/metr.py``."""
