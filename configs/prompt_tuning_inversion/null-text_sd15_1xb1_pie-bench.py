# Null-text inversion (arXiv 2211.09794) for comparison: steps, updates, rate and threshold of its public code, the prompt
# mixed with that of the image instead of replaced attention maps. 1 GPU x 1 image. Not run by us.
_base_ = './_base_/sd15_pie-bench.py'

model = dict(type='NullTextInversionEditor', inner_steps=10, lr=1e-2, early_stop=1e-5)
