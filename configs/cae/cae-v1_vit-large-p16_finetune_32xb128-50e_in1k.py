# Fine-tuning of CAE ViT-L on ImageNet-1k. Paper recipe (authors' code): 32 GPUs x 128, 50 epochs. Not run by us.
_base_ = './cae-v1_vit-base-p16_finetune_32xb128-100e_in1k.py'
model = dict(
    backbone=dict(
        arch='large',
        layer_scale_init_value=1e-5,
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='work_dirs/cae-v1_vit-large-p16_32xb64-1600e_in1k/epoch_1600.pth')),
    head=dict(in_channels=1024))
optim_wrapper = dict(optimizer=dict(lr=2e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=45,
        by_epoch=True,
        begin=5,
        end=50,
        eta_min_ratio=1e-6 / 2e-3,
        convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=50)
