# Prompt Tuning Inversion, Stable Diffusion XL (base 1.0) at 1024 pixels, PIE-Bench; 1 GPU x 1 image. SDXL_FOLDER names its
# diffusers folder. Weights in bfloat16, the autoencoder in float32. Not run by us.
_base_ = './pti_sd15_1xb1_pie-bench.py'

model = dict(
    parts=dict(pretrained='{{$SDXL_FOLDER:data/stable-diffusion-xl-base-1.0}}', arch='sdxl', dtype='bf16', low_mem=True))
test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadEditImage', size=1024, multiple=64, resize='stretch')]))
