# ADML (Yin et al., 2018): clean and attacked support, each with the other kind of query. CIFAR-FS, 5-way 1-shot. 1
# GPU x 4 tasks, 15,000 updates, about 2 hours of one CPU core. Not run by us.
_base_ = './_base_/cifar-fs.py'
model = dict(
    support_attack=dict(type='LinfAttack', eps=10 / 255, step_size=10 / 255, random_start=False),  # FGSM
    attack=dict(step_size=10 / 255, random_start=False),
    crossed=True)
