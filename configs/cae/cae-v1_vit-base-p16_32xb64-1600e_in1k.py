# CAE, ViT-B/16, ImageNet-1K. Paper recipe: 32 GPUs x 64 images, 1600 epochs. Not run by us.
_base_ = './cae-v1_vit-base-p16_32xb64-300e_in1k.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=True, begin=0, end=40, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=40, end=1600, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=1600)
