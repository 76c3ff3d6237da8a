# Prompt Tuning Inversion that starts from the prompt of the edit, as public code does it. Not run by us.
_base_ = './pti_sd15_1xb1_pie-bench.py'

model = dict(init='target')
