# ITS-MAML on R-MAML as its code does it: first-order gradients, 3 shots in training. Omniglot, Conv4-64, 5-way 1-shot. 1 GPU x 4
# tasks, 15,000 updates. Not run by us.
_base_ = './r-maml_conv4_repro_5way-1to1_1xb4-15ki_omniglot.py'
train_dataloader = dict(dataset=dict(shots=3))
