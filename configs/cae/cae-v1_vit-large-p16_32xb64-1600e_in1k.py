# CAE, ViT-L/16, ImageNet-1K. Recipe of the authors' script: 32 GPUs x 64 images, 1600 epochs. Not run by us.
# The script means a regressor of width 1024 with 16 heads and BEiT's rescaling of the start weights, but a missing
# backslash drops these three options (then: 768, 12 heads). What it means is what stands here.
_base_ = './cae-v1_vit-base-p16_32xb64-1600e_in1k.py'

model = dict(
    backbone=dict(arch='large', layer_scale_init_value=1e-5, rescale_init=True),
    neck=dict(embed_dims=1024, num_heads=16, layer_scale_init_value=1e-5, rescale_init=True))
