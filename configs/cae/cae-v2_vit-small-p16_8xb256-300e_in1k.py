# CAE v2, ViT-S/16, ImageNet-1K, target CLIP ViT-B/16. Paper recipe: 8 GPUs x 256 images, 300 epochs. Not run by us.
_base_ = './cae-v2_vit-base-p16_8xb256-300e_in1k.py'

model = dict(
    backbone=dict(arch='small'),  # 12 heads, as in the authors' code
    neck=dict(in_channels=384, embed_dims=384, regressor_depth=1))

train_pipeline = _base_.train_pipeline
train_pipeline[-2].update(num_masking_patches=49)  # 98 for B: smaller models learn more from fewer masked patches
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
