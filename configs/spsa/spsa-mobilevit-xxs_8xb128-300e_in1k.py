# MobileViT-xxs with SPSA in place of attention, ImageNet-1k: 8 GPUs x 128 images, 300 epochs. The host's MobileViT configs
# are for testing only, so the recipe is that of SPSANet. Not run by us.
_base_ = './spsanet-xxs_8xb128-300e_in1k.py'
model = dict(
    backbone=dict(_delete_=True, type='SPSAMobileViT', arch='xx_small', mixer=dict(type='SPSA', head_dim=8)),
    head=dict(in_channels=320))
