"""The frozen teacher: how a network is run as one, and its features as targets."""
