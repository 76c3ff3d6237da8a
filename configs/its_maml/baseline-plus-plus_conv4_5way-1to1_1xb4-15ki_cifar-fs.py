# Baseline++ (Chen et al., 2019): cosines to the 64 classes of training, in test a new head of 100 steps on fixed
# features. CIFAR-FS, 5-way 1-shot. 1 GPU x 4 tasks, 15,000 updates, about 30 minutes of one CPU core. Not run by us.
_base_ = './_base_/cifar-fs.py'
model = dict(
    type='RobustBaselinePlusPlus',
    network=dict(head=dict(type='CosineClsHead', num_classes=64)),
    train_steps=0,
    test_steps=100,
    attack=None,
    reg_weight=0.0)
