"""Data, models and measures of the small H-GKD experiment, used by ``tools/claims/hgkd.py``."""
