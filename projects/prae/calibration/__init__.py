"""From confidence to the probability of being right: which boxes are right, the curves, and their file."""
