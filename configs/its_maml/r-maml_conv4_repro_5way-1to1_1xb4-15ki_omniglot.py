# R-MAML as its code does it: first-order gradients. Omniglot, Conv4-64, 5-way 1-shot. 1 GPU x 4 tasks, 15,000
# updates, about 1 hour of one CPU core. Not run by us.
_base_ = './_base_/omniglot.py'
model = dict(first_order=True)
