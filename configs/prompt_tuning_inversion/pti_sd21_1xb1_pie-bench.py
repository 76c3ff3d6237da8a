# Prompt Tuning Inversion, Stable Diffusion 2.1 at 768 pixels (v-prediction), PIE-Bench; 1 GPU x 1 image. SD21_FOLDER names
# its diffusers folder. Weights in bfloat16: float16 overflows in the attention of SD 2.x. Not run by us.
_base_ = './pti_sd15_1xb1_pie-bench.py'

model = dict(
    parts=dict(pretrained='{{$SD21_FOLDER:data/stable-diffusion-2-1}}', arch='sd2', dtype='bf16', low_mem=True))
test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadEditImage', size=768, multiple=64, resize='stretch')]))
