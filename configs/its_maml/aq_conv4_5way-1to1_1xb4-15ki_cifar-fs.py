# Adversarial querying (Goldblum et al., 2020) with MAML: only attacked queries, PGD 7 x 2/255 in 8/255. CIFAR-FS,
# 5-way 1-shot. 1 GPU x 4 tasks, 15,000 updates, about 2.5 hours of one CPU core. Not run by us.
_base_ = './_base_/cifar-fs.py'
model = dict(clean_weight=0.0, attack=dict(eps=8 / 255, steps=7, step_size=2 / 255))
