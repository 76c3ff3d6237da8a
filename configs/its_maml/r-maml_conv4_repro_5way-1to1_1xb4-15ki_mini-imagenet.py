# R-MAML as its code does it: first-order gradients. miniImageNet, Conv4-32, 5-way 1-shot. 1 GPU x 4 tasks, 15,000
# updates, about 20 hours of one CPU core. Not run by us.
_base_ = './_base_/mini-imagenet.py'
# The code's second Adam has 0.2 of the learning rate for the adversarial loss; ours is one Adam on the weighted sum.
model = dict(first_order=True, reg_weight=0.2)
