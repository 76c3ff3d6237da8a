"""``python -m mmplugins.metr prepare``: published annotations put right, once, before training."""
