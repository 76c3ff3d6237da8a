# ANIL (Raghu et al., 2020): the inner loop changes the head alone. With the type alone it is robust ANIL. CIFAR-FS,
# 5-way 1-shot. 1 GPU x 4 tasks, 15,000 updates, about 30 minutes of one CPU core. Not run by us.
_base_ = './_base_/cifar-fs.py'
model = dict(type='RobustANIL', attack=None, reg_weight=0.0)
