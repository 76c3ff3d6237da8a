# Prototypical networks with R-MAML's loss of attacked queries. CIFAR-FS, 5-way 1-shot. 1 GPU x 4 tasks, 15,000
# updates, about 1 hour of one CPU core. Not run by us.
_base_ = './_base_/cifar-fs.py'
model = dict(type='RobustProtoNet')
