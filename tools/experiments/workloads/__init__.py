"""Small data and training loops that the experiments of several plugins use."""
