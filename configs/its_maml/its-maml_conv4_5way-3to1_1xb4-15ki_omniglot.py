# ITS-MAML, Omniglot, Conv4-64, 5-way 1-shot, 3 shots in training. 1 GPU x 4 tasks, 15,000 updates, about 3 hours of
# one CPU core. Not run by us.
_base_ = './_base_/omniglot.py'
train_dataloader = dict(dataset=dict(shots=3))
