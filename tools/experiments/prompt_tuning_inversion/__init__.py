"""Experiments of Prompt Tuning Inversion."""
