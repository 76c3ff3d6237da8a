"""The frozen teacher: a network with all its weights, how it is run, and its features as targets."""
