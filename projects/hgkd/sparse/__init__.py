"""The encoder that computes at visible sites only: engines, layers, the ResNet, and the way back to a plain one."""
