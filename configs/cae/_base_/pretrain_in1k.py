# What the pretraining configs on ImageNet-1K share: data, optimizer, runtime. 2048 images a step.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmplugins.cae'], allow_failed_imports=False)

train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    drop_last=True,  # authors' code
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageNet', data_root='data/imagenet/', split='train'))

optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    # authors' code: lr as it is, not scaled by the batch
    optimizer=dict(type='AdamW', lr=1.5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    clip_grad=dict(max_norm=3.0),
    # authors' code: no decay for whatever has one dimension; the CLS and the mask token do decay
    paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0, flat_decay_mult=0.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=10, end=300, convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300)
auto_scale_lr = dict(base_batch_size=2048)

default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=2))
randomness = dict(seed=0, diff_rank_seed=True)
