# Fine-tuning of CAE v2 ViT-S on ImageNet-1k. Paper recipe (authors' code): 8 GPUs x 128, 200 epochs. Not run by us.
_base_ = './cae-v2_vit-base-p16_finetune_8xb128-100e_in1k.py'
model = dict(
    backbone=dict(
        arch='small', init_cfg=dict(checkpoint='work_dirs/cae-v2_vit-small-p16_8xb256-300e_in1k/epoch_300.pth')),
    head=dict(in_channels=384))
optim_wrapper = dict(optimizer=dict(lr=4e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=180,
        by_epoch=True,
        begin=20,
        end=200,
        eta_min_ratio=1e-6 / 4e-4,
        convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=200)
