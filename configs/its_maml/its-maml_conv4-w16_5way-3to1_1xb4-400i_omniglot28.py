# ITS-MAML on real drawings of Omniglot at 28x28 (tests/data/omniglot), 5-way 1-shot, 3 shots in training. Small: 1 process x
# 4 tasks, 400 updates, a few minutes on one CPU core.
_base_ = './_base_/omniglot28_small.py'
train_dataloader = dict(dataset=dict(shots=3))
