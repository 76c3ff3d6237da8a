# CAE v2, ViT-L/16, ImageNet-1K, target CLIP ViT-B/16. The paper reports this model, the authors' code has no script for
# it: sizes are those of CAE's script for L (see there), the rest is CAE v2's. 8 GPUs x 256 images. Not run by us.
# For CLIP ViT-L/14 as the target: arch='ViT-L/14', resolution=196, second_size=196 and num_classes=768.
_base_ = './cae-v2_vit-base-p16_8xb256-300e_in1k.py'

model = dict(
    backbone=dict(arch='large', layer_scale_init_value=1e-5, rescale_init=True),
    neck=dict(in_channels=1024, embed_dims=1024, num_heads=16, layer_scale_init_value=1e-5, rescale_init=True))
