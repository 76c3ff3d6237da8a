"""What ``python -m mmplugins.prompt_tuning_inversion`` does."""
