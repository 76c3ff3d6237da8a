# Prompt Tuning Inversion, Stable Diffusion 1.5, PIE-Bench; 1 GPU x 1 image. The paper edits ImageNet; we could
# not obtain its settings, so these are those of the neighbors' public code. Not run by us.
_base_ = './_base_/sd15_pie-bench.py'

model = dict(type='PromptTuningInversion', init='null', inner_steps=10, lr=1e-2, early_stop=1e-5)
