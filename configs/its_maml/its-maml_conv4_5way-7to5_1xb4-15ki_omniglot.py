# ITS-MAML, Omniglot, Conv4-64, 5-way 5-shot, 7 shots in training. 1 GPU x 4 tasks, 15,000 updates, about 3.5 hours
# of one CPU core. Not run by us.
_base_ = './_base_/omniglot.py'
train_dataloader = dict(dataset=dict(shots=7, queries=13))  # ours: a character has 20 drawings, so not 15 queries
val_dataloader = dict(dataset=dict(shots=5))
test_dataloader = dict(dataset=dict(shots=5))
