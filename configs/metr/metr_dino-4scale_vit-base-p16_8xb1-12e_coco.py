# METR on DINO with a plain ViT-B, COCO. 8 GPUs x 1 image, 12 epochs. Not in the paper and not run by us: the backbone,
# its pyramid and its rates are those of CAE's Mask R-CNN; other starts of the backbone: projects/cae/README.md.
_base_ = './metr_dino-4scale_r50_8xb1-12e_coco.py'
custom_imports = dict(imports=['mmplugins.metr', 'mmplugins.cae'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.CAEDenseViT',
        arch='base',
        img_size=224,  # that of the checkpoint; the position table is computed for the grid of each batch
        use_rel_pos_bias=False,
        pos_resize='rebuild',
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/cae-v1_vit-base-p16_32xb64-300e_in1k/epoch_300.pth',
            prefix='backbone.')),
    neck=[
        # Strides 8, 16, 32 and 64, as DINO's of a ResNet.
        dict(type='mmpretrain.ViTPyramid', in_channels=768, scales=(2, 1, 0.5, 0.25)),
        dict(
            type='ChannelMapper',
            in_channels=[768, 768, 768, 768],
            kernel_size=1,
            out_channels=256,
            act_cfg=None,
            norm_cfg=dict(type='GN', num_groups=32),
            num_outs=4)
    ])
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='mmpretrain.BackboneLayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.75,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0))
