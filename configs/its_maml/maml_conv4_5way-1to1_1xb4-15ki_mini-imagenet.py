# MAML without adversarial term, miniImageNet, Conv4-32, 5-way 1-shot. 1 GPU x 4 tasks, 15,000 updates, about 18
# hours of one CPU core. Not run by us.
_base_ = './_base_/mini-imagenet.py'
model = dict(attack=None, reg_weight=0.0)
