# R-MAML, Omniglot, Conv4-64, 5-way 1-shot, second order: the baseline with as many shots in training as in test. 1
# GPU x 4 tasks, 15,000 updates, about 2 hours of one CPU core. Not run by us.
_base_ = './_base_/omniglot.py'
