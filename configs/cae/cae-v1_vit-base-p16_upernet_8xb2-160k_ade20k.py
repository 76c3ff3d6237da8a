# UperNet on ADE20K from CAE ViT-B. Paper recipe (authors' code): 8 GPUs x 2, 160k iterations, crops of 512. Not run by
# us. The learning rate depends on the length of the pretraining: 3e-4 after 300 epochs, 2e-4 after 800, 1e-4 after 1600.
_base_ = 'mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmplugins.cae'], allow_failed_imports=False)

model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmpretrain.CAEDenseViT',
        arch='base',
        img_size=512,
        drop_path_rate=0.1,
        # Where the pretraining writes its last checkpoint; an exported encoder (encoder.pth) fits as well.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/cae-v1_vit-base-p16_32xb64-300e_in1k/epoch_300.pth',
            prefix='backbone.')))

optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=3e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmpretrain.BackboneLayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
auto_scale_lr = dict(enable=False, base_batch_size=16)
