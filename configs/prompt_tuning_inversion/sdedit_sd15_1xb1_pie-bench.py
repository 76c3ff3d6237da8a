# SDEdit (arXiv 2108.01073) for comparison; eta is its strength. 1 GPU x 1 image. Not run by us.
_base_ = './_base_/sd15_pie-bench.py'

model = dict(type='SDEditEditor', seed=0)
