"""Parts of tools/claims/prompt_tuning_inversion.py."""
