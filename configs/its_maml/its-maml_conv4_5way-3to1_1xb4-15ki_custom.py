# ITS-MAML on images of your own, Conv4-32. 5-way 1-shot, 3 shots in training. 1 GPU x 4 tasks, 15,000 updates, about
# 36 hours of one CPU core. Not run by us.
_base_ = './_base_/custom.py'
train_dataloader = dict(dataset=dict(shots=3))
