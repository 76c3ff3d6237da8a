# Prompt Tuning Inversion that starts from the empty prompt, so that one inversion serves every prompt. Not run by us.
_base_ = './pti_sd15_1xb1_pie-bench.py'

model = dict(init='null')
