# R-MAML with the regularizer of TRADES, CIFAR-FS, 5-way 1-shot; weight 2.5, 8/255 and half the length as R-MAML's
# code has it. 1 GPU x 4 tasks, 7,500 updates, about 40 minutes of one CPU core. Not run by us.
_base_ = './_base_/cifar-fs.py'
model = dict(reg='trades', reg_weight=2.5, attack=dict(eps=8 / 255, objective='kl'))
train_cfg = dict(max_iters=7500)
