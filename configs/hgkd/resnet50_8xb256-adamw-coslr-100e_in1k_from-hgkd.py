# Fine-tuning of a ResNet-50 from H-GKD on ImageNet-1k with AdamW and one learning rate for all layers. 8 GPUs x 256 images,
# 100 epochs. Ours, not run by us. Needs an export of the pretraining (see the README).
_base_ = 'resnet50_8xb256-coslr-300e_in1k_from-hgkd.py'

optim_wrapper = dict(
    _delete_=True,
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=95, eta_min=1e-6, by_epoch=True, begin=5, end=100, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=100)
