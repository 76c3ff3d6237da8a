# As hgkd_sparse-r50_mae-base_..., with the image encoder of CLIP ViT-B/16 as teacher. 8 GPUs x 512 images, 300 epochs. Not
# run by us. Needs OpenAI's weights in the layout of mmpretrain's VisionTransformer in checkpoints/.
_base_ = 'hgkd_sparse-r50_mae-base_8xb512-amp-coslr-300e_in1k.py'

custom_hooks = [
    dict(
        type='GenerativeDistillHook',
        teacher=dict(
            type='VisionTransformer',
            arch='b',
            patch_size=16,
            pre_norm=True,
            norm_cfg=dict(type='LN', eps=1e-5),
            layer_cfgs=dict(act_cfg=dict(type='QuickGELU'))),
        checkpoint='checkpoints/clip_vit-base-p16.pth',
        taps=['layers.11'],
        mode='full',
        # CLIP was trained with other pixel statistics.
        input_norm=dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
        autocast='float16')
]
