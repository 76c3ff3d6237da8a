"""What `python -m mmplugins.its_maml` does: testing, predicting, sweeping, reporting, drawing an episode."""
