# DDIM inversion and guided sampling of the prompt, for comparison. 1 GPU x 1 image. Not run by us.
_base_ = './_base_/sd15_pie-bench.py'

model = dict(type='DDIMInversionEditor', init='target', eta=1.0)
