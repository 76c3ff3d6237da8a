# Fine-tuning of CAE v2 ViT-B on ImageNet-1k. Paper recipe (authors' code): 8 GPUs x 128, 100 epochs. Not run by us.
_base_ = './cae-v1_vit-base-p16_finetune_32xb128-100e_in1k.py'
model = dict(
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/cae-v2_vit-base-p16_8xb256-300e_in1k/epoch_300.pth')))
optim_wrapper = dict(optimizer=dict(lr=2e-4), paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=95,
        by_epoch=True,
        begin=5,
        end=100,
        eta_min_ratio=1e-6 / 2e-4,
        convert_to_iter_based=True)
]
auto_scale_lr = dict(base_batch_size=1024)
