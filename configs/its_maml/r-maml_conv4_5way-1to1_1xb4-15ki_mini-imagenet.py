# R-MAML, miniImageNet, Conv4-32, 5-way 1-shot, second order: the baseline with as many shots in training as in test.
# 1 GPU x 4 tasks, 15,000 updates, about 31 hours of one CPU core. Not run by us.
_base_ = './_base_/mini-imagenet.py'
