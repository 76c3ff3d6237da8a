# As hgkd_sparse-r50_mae-base_..., with a CAE ViT-B/16 as teacher. 8 GPUs x 512 images, 300 epochs. Not run by us.
# Needs a checkpoint of CAE's encoder, of mmpretrain or of this repository's configs/cae, in checkpoints/.
_base_ = 'hgkd_sparse-r50_mae-base_8xb512-amp-coslr-300e_in1k.py'

custom_hooks = [
    dict(
        type='GenerativeDistillHook',
        teacher=dict(type='CAEPretrainViT', arch='b', patch_size=16, layer_scale_init_value=0.1),
        checkpoint='checkpoints/cae_vit-base-p16_1600e.pth',
        taps=['layers.11'],
        mode='full',
        autocast='float16')
]
